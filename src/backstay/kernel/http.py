"""HTTP habits that every room shares: permission on every route, problem documents, idempotency, pages, body limits.

A room writes `router = Router("/api/jobs", tag="jobs")` and thin handlers. A handler that declares `tx: Tx` runs inside
the caller's tenant transaction, which commits after it returns; with an `Idempotency-Key` the answer commits too.
"""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Self, get_type_hints
from uuid import uuid4

import psycopg
import structlog
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, TypeAdapter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import telemetry
from .db import Tx
from .errors import (
    BackstayError,
    BadRequest,
    FieldError,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from .idempotency import Answer, Attempt, InFlight, KeyReused
from .pages import DEFAULT_LIMIT, MAX_LIMIT, Page
from .pages import PageRequest as _PageRequest
from .principal import Principal

__all__ = ["PUBLIC", "Caller", "Page", "PageRequest", "Problem", "Router", "View", "service"]

PUBLIC = "public"  # the permission of a route that needs no key
PERMISSION = "x-backstay-permission"
NO_CONTENT = 204
DOCS = "/docs"  # the pages of the API reference are public
PROBLEM_TYPE = "application/problem+json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_requests = telemetry.counter("backstay_http_requests_total", "Requests answered.", ["method", "status"])
_log = telemetry.log("http")

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and request within 24 hours get the same answer, and the effect happens once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}

Handler = Callable[..., Awaitable[Any]]


class Problem(BaseModel):
    """An error document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    trace_id: str | None = None
    errors: list[dict[str, str]] = []


class View(BaseModel):
    """What is shown of one of a room's models: the attributes that have the view's names."""

    @classmethod
    def of(cls, model: object) -> Self:
        return cls.model_validate(model, from_attributes=True)


def service(name: str) -> Any:
    """The service `name` of the running App, as a FastAPI dependency."""

    async def find(request: Request) -> Any:
        return getattr(request.app.state.backstay, name)

    return Depends(find)


# Tells OpenAPI, and with it the reference's "Authorize" button, how a key is sent; the check itself is `_caller`'s.
_API_KEY = HTTPBearer(auto_error=False, scheme_name="API key", description="A key that begins with `bs_`.")


async def _caller(request: Request, _: Annotated[object, Depends(_API_KEY)]) -> Principal:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("send your API key as `Authorization: Bearer bs_…`", headers={"www-authenticate": "Bearer"})
    principal: Principal = await request.app.state.backstay.auth.authenticate(token.strip())
    structlog.contextvars.bind_contextvars(principal=str(principal.id))
    return principal


Caller = Annotated[Principal, Depends(_caller)]


async def _page_request(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> _PageRequest:
    return _PageRequest(request.app.state.backstay.vault, limit, cursor, request.url.path)


PageRequest = Annotated[_PageRequest, Depends(_page_request)]


def _permitted(permission: str) -> Any:
    async def check(by: Caller) -> None:
        by.require(permission)

    return Depends(check)


class Router:
    """Routes of one room. Each declares the permission it needs and the errors it may answer with."""

    def __init__(self, prefix: str, *, tag: str) -> None:
        self.routes = APIRouter(prefix=prefix, tags=[tag])

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._route("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._route("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._route("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._route("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._route("DELETE", path, **options)

    def _route(
        self,
        method: str,
        path: str,
        *,
        permission: str,
        status: int = 200,
        errors: Sequence[type[BackstayError]] = (),
        **options: Any,
    ) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            in_transaction = _transaction_parameter(handler) is not None
            always: list[type[BackstayError]] = [BadRequest, Invalid, Unavailable, TimedOut]
            if permission != PUBLIC:
                always += [Unauthorized, Forbidden]
            if method != "GET":
                always.append(TooLarge)
            if in_transaction:
                always += [InFlight, KeyReused]
            self.routes.add_api_route(
                path,
                _in_transaction(handler, status) if in_transaction else handler,
                methods=[method],
                status_code=status,
                dependencies=[] if permission == PUBLIC else [_permitted(permission)],
                responses=_documented([*always, *errors]) | options.pop("responses", {}),
                summary=_summary(handler),
                openapi_extra={PERMISSION: permission} | ({"parameters": [_IDEMPOTENCY_KEY]} if in_transaction else {}),
                **({"response_model": None} if status == NO_CONTENT else {}) | options,
            )
            return handler

        return register


def _summary(handler: Handler) -> str:
    """The first sentence of the handler's docstring."""
    return (inspect.getdoc(handler) or handler.__name__).split("\n")[0].split(". ")[0].rstrip(".")


def _documented(errors: Sequence[type[BackstayError]]) -> dict[int | str, dict[str, Any]]:
    titles: dict[int, list[str]] = {}
    for error in errors:
        titles.setdefault(error.status, []).append(f"{error.title} (`{error.code}`)")
    return {
        status: {
            "description": "; ".join(dict.fromkeys(titles[status])),
            "content": {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for status in sorted(titles)
    }


def _transaction_parameter(handler: Handler) -> str | None:
    return next((name for name, kind in get_type_hints(handler).items() if kind is Tx), None)


def _in_transaction(handler: Handler, status: int) -> Handler:
    """`handler` in the caller's tenant transaction; its answer is kept under the Idempotency-Key, if one is sent."""
    parameter = _transaction_parameter(handler)
    answer_type: TypeAdapter[Any] = TypeAdapter(get_type_hints(handler).get("return", Any))

    @functools.wraps(handler)
    async def run(_request: Request, _by: Caller, **arguments: Any) -> Any:
        app = _request.app.state.backstay
        key = _request.headers.get("idempotency-key")
        if key is None:
            async with app.db.tenant_tx(_by.tenant) as tx:
                return await handler(**arguments, **{str(parameter): tx})
        attempt = Attempt(_by, key, await _identity(_request), app.vault, app.clock.now())
        async with app.db.tenant_tx(_by.tenant) as tx:
            standing = await attempt.standing(tx)
            if standing is not None:
                return _json(standing, {"idempotent-replayed": "true"})
            answer = Answer(status, _body(answer_type, await handler(**arguments, **{str(parameter): tx})))
            await attempt.keep(tx, answer)
        return _json(answer, {})

    hints = get_type_hints(handler, include_extras=True)
    own = [
        value.replace(annotation=hints.get(name, value.annotation), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, value in inspect.signature(handler).parameters.items()
        if name != parameter
    ]
    added = [
        inspect.Parameter("_request", inspect.Parameter.KEYWORD_ONLY, annotation=Request),
        inspect.Parameter("_by", inspect.Parameter.KEYWORD_ONLY, annotation=Caller),
    ]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*added, *own], return_annotation=hints.get("return", inspect.Signature.empty)
    )
    return run


async def _identity(request: Request) -> bytes:
    line = f"{request.method} {request.url.path}?{request.url.query}\n"
    return line.encode() + await request.body()


def _body(answer_type: TypeAdapter[Any], result: Any) -> bytes:
    return b"" if result is None else answer_type.dump_json(result, by_alias=True)


def _json(answer: Answer, headers: dict[str, str]) -> Response:
    media_type = "application/json" if answer.body else None
    return Response(answer.body, answer.status, media_type=media_type, headers=headers)


def install(api: FastAPI) -> None:
    """Gives `api` the error answers of the design."""
    api.add_exception_handler(BackstayError, _on_backstay_error)
    api.add_exception_handler(RequestValidationError, _on_invalid_request)
    api.add_exception_handler(HTTPException, _on_http_exception)
    api.add_exception_handler(psycopg.Error, _on_database_error)
    api.add_exception_handler(UnicodeEncodeError, _on_bad_text)
    api.add_exception_handler(Exception, _on_unexpected)


def routes(api: FastAPI) -> list[APIRoute]:
    """Every API route, those of included routers too."""
    found: list[APIRoute] = []
    waiting: list[Any] = list(api.routes)
    while waiting:
        route = waiting.pop(0)
        if isinstance(route, APIRoute):
            found.append(route)
        elif included := getattr(route, "original_router", None):  # newer FastAPI keeps routers as they were included
            waiting += included.routes
    return found


def undeclared(api: FastAPI) -> list[str]:
    """API routes that declare no permission; the App refuses to start when there is one."""
    return sorted(
        f"{min(route.methods or {'ANY'})} {route.path}"
        for route in routes(api)
        if PERMISSION not in (route.openapi_extra or {}) and not route.path.startswith(DOCS)
    )


def problem_response(error: BackstayError, request: Request) -> JSONResponse:
    body = error.problem(request.scope.get("backstay.request_id"))
    return JSONResponse(body, error.status, headers=error.headers, media_type=PROBLEM_TYPE)


async def _on_backstay_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BackstayError)  # noqa: S101 -- what the handler is registered for
    if error.status >= 500:
        _log.error("request failed", code=error.code, detail=error.detail, path=request.url.path)
    return problem_response(error, request)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return problem_response(BadRequest("the body is not valid JSON"), request)
    fields = [FieldError(".".join(map(str, item["loc"])), item["msg"]) for item in found]
    names = ", ".join(dict.fromkeys(field.field for field in fields))
    return problem_response(Invalid(f"these fields are wrong: {names}", errors=fields), request)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error.__cause__, BackstayError):  # raised while FastAPI read the body
        return problem_response(error.__cause__, request)
    if error.status_code == 405:
        refused = MethodNotAllowed(f"{request.method} is not served here", headers=dict(error.headers or {}))
        return problem_response(refused, request)
    if error.status_code == 404:
        return problem_response(NotFound(f"nothing is served at {request.url.path}"), request)
    wrong = BadRequest(str(error.detail), headers=dict(error.headers or {}))
    body = wrong.problem(request.scope.get("backstay.request_id")) | {"status": error.status_code}
    return JSONResponse(body, error.status_code, headers=wrong.headers, media_type=PROBLEM_TYPE)


async def _on_database_error(request: Request, error: Exception) -> Response:
    """Rejected values are the caller's fault, a lost server is for now; anything else is ours."""
    known: BackstayError
    if isinstance(error, psycopg.errors.QueryCanceled):
        known = TimedOut("the database took longer than the statement timeout")
    elif isinstance(error, psycopg.DataError):
        known = Invalid("a value cannot be stored: it is out of range or has a character that text may not have")
    elif isinstance(error, psycopg.OperationalError):
        known = Unavailable("the database is not reachable for now; repeat the request")
    else:
        return await _on_unexpected(request, error)
    _log.warning("database refused", code=known.code, path=request.url.path, sqlstate=error.sqlstate)
    return problem_response(known, request)


async def _on_bad_text(request: Request, error: Exception) -> Response:
    """JSON may spell half a character (a lone surrogate), which no text in the database can hold."""
    return problem_response(Invalid("a text of the request is not valid Unicode"), request)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected error", path=request.url.path, exc_info=error)
    return problem_response(BackstayError("something went wrong on our side; the log has it under trace_id"), request)


def path_of(scope: Scope) -> str:
    """The path below the point where the application is mounted."""
    path: str = scope.get("path", "")
    return path.removeprefix(scope.get("root_path", ""))


class RequestBoundary:
    """Outermost ASGI layer: request id in and out, body size limit, a log context per request, request counts.

    Paths that start with one of `own_errors` answer for a body that is too large themselves, in their own format.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, own_errors: tuple[str, ...] = ()) -> None:
        self._app, self._max, self._own_errors = app, max_body_bytes, own_errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid4().hex
        scope["backstay.request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max:
                    raise TooLarge(f"the body is larger than {self._max} bytes (BACKSTAY_MAX_BODY_BYTES)")
            return message

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                _requests.labels(scope["method"], str(message["status"])).inc()
            await send(message)

        declared = headers.get(b"content-length", b"0")
        answers_itself = path_of(scope).startswith(self._own_errors)
        if not answers_itself and declared.isdigit() and (len(declared) > 18 or int(declared) > self._max):
            error = TooLarge(f"the body is larger than {self._max} bytes (BACKSTAY_MAX_BODY_BYTES)")
            await problem_response(error, Request(scope))(scope, receive, tagged)
            return
        await self._app(scope, limited, tagged)
