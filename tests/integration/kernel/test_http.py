"""Whatever is sent, the answer is a problem document with a status that fits: never a 500, never a traceback."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import BaseModel

from backstay.app import App
from backstay.kernel import http, telemetry
from backstay.kernel.db import Tx
from backstay.kernel.errors import BackstayError
from backstay.kernel.http import PUBLIC, Caller, Router

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON = {"content-type": "application/json"}
probe = Router("/api/probe", tag="probe")


class Thing(BaseModel):
    name: str = ""
    count: int = 0
    extra: dict[str, Any] = {}


@probe.post("/store", permission="probe:write")
async def store(body: Thing, by: Caller, tx: Tx) -> Thing:
    await tx.execute(
        "insert into backstay.outbox (tenant_id, id, at, type, payload) values (%s, gen_random_uuid(), now(), %s, %s)",
        [by.tenant, body.name, body.extra],
    )
    await tx.execute("select %s::int", [body.count])
    return body


@probe.get("/broken", permission=PUBLIC)
async def broken() -> Thing:
    raise RuntimeError("secret detail of the implementation")


@probe.get("/bad-sql", permission="probe:read")
async def bad_sql(by: Caller) -> Thing:
    raise psycopg.errors.UndefinedTable("relation backstay.secret does not exist")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http_client(shared_app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Talks to the App, with the probe's routes, behind a boundary that takes 2,000 bytes at most."""
    telemetry.configure_logging("error", "json")
    shared_app.api.include_router(probe.routes)
    key = await shared_app.auth.create_owner(shared_app.default_tenant, "prober")
    transport = httpx.ASGITransport(app=http.RequestBoundary(shared_app.api, 2_000), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key.secret}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://backstay", headers=headers) as made:
        yield made


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that has to be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "code", "trace_id", "errors"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:backstay:error:{code}"
    assert body["trace_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return body


class TestBodies:
    async def test_a_wrong_field_is_named(self, http_client: httpx.AsyncClient) -> None:
        body = problem(await http_client.post("/api/probe/store", json={"count": "many"}), 422, "invalid")
        assert body["errors"] == [
            {"field": "body.count", "message": "Input should be a valid integer, unable to parse string as an integer"}
        ]
        assert "body.count" in body["detail"]

    async def test_a_wrong_value_is_not_echoed(self, http_client: httpx.AsyncClient) -> None:
        answer = await http_client.post("/api/probe/store", json={"count": "bs_live_secret_value"})
        assert "bs_live_secret_value" not in answer.text

    @pytest.mark.parametrize("sent", [b"{", b"\xff\xfe", b"{'a': 1}", b'{"name": "\xff"}', b"nul\x00l"])
    async def test_invalid_json_is_a_bad_request(self, http_client: httpx.AsyncClient, sent: bytes) -> None:
        answer = await http_client.post("/api/probe/store", content=sent, headers=JSON)
        problem(answer, 400, "bad_request")

    @pytest.mark.parametrize(
        "sent", [b"", b"[]", b"null", b'"text"', b"1e999", b'{"name": "\\ud800"}', b'{"name": NaN}']
    )
    async def test_json_of_another_shape_is_invalid(self, http_client: httpx.AsyncClient, sent: bytes) -> None:
        answer = await http_client.post("/api/probe/store", content=sent, headers=JSON)
        problem(answer, 422, "invalid")

    @pytest.mark.parametrize(
        "sent",
        [
            {"name": "nul \x00 inside"},
            {"extra": {"nul": "\x00"}},
            {"extra": {"nul \x00": 1}},
            {"count": 2**31},
            {"count": -(2**63)},
            {"count": 10**30},
            {"extra": {"huge": 10**30}},
            {"extra": {"deep": [{"huge": -(10**40)}]}},
        ],
    )
    async def test_a_value_that_the_database_cannot_hold_is_invalid(
        self, http_client: httpx.AsyncClient, sent: dict[str, Any]
    ) -> None:
        problem(await http_client.post("/api/probe/store", content=json.dumps(sent), headers=JSON), 422, "invalid")

    async def test_a_very_deep_body_is_refused_or_stored(self, http_client: httpx.AsyncClient) -> None:
        answer = await http_client.post(
            "/api/probe/store", content='{"extra": {"a": ' + "[" * 900 + "]" * 900 + "}}", headers=JSON
        )
        assert answer.status_code in (200, 400, 422), answer.text

    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", "nonsense", ""])
    async def test_another_content_type_is_refused(self, http_client: httpx.AsyncClient, kind: str) -> None:
        answer = await http_client.post("/api/probe/store", content=b"{}", headers={"content-type": kind})
        assert answer.status_code in (400, 415, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


class TestSizes:
    async def test_a_body_that_says_it_is_too_large_is_refused_unread(self, http_client: httpx.AsyncClient) -> None:
        body = problem(await http_client.post("/api/probe/store", content=b"x" * 3_000), 413, "too_large")
        assert "2000 bytes" in body["detail"]

    async def test_a_body_that_does_not_say_is_refused_while_it_is_read(self, http_client: httpx.AsyncClient) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"x" * 100

        body = problem(await http_client.post("/api/probe/store", content=pieces()), 413, "too_large")
        assert "2000 bytes" in body["detail"]

    @pytest.mark.parametrize("length", ["9" * 30, "9" * 5_000])
    async def test_an_absurd_length_is_refused(self, http_client: httpx.AsyncClient, length: str) -> None:
        answer = await http_client.post("/api/probe/store", content=b"", headers={"content-length": length})
        problem(answer, 413, "too_large")

    @pytest.mark.parametrize("length", ["-1", "many", "٣"])
    async def test_a_length_that_is_no_number_breaks_nothing(self, http_client: httpx.AsyncClient, length: str) -> None:
        request = http_client.build_request("POST", "/api/probe/store", content=b"{}")
        request.headers = httpx.Headers([*request.headers.raw, (b"content-length", length.encode())])
        assert (await http_client.send(request)).status_code < 500


class TestPaths:
    @pytest.mark.parametrize("path", ["/nothing", "/api", "/api/keys/x/y/z", "/%00", "/%ff%fe", "/../etc/passwd", "//"])
    async def test_an_unknown_path_is_not_found(self, http_client: httpx.AsyncClient, path: str) -> None:
        problem(await http_client.get(path), 404, "not_found")

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW"])
    async def test_a_method_that_is_not_served_says_which_are(
        self, http_client: httpx.AsyncClient, method: str
    ) -> None:
        answer = await http_client.request(method, "/api/keys")
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]

    async def test_an_id_that_is_none_is_invalid(self, http_client: httpx.AsyncClient) -> None:
        body = problem(await http_client.delete("/api/keys/not-a-uuid"), 422, "invalid")
        assert body["errors"][0]["field"] == "path.id"

    @pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", f"limit={10**30}", "limit=", "cursor=%00"])
    async def test_a_wrong_page_is_invalid(self, http_client: httpx.AsyncClient, query: str) -> None:
        answer = await http_client.get(f"/api/keys?{query}")
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("query", ["type=%00", "type=" + "x" * 201, "type=%ff"])
    async def test_a_wrong_filter_is_never_our_failure(self, http_client: httpx.AsyncClient, query: str) -> None:
        answer = await http_client.get(f"/api/events?{query}")
        assert answer.status_code in (200, 422), answer.text


class TestAuthorization:
    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer  ",
            "bearer nonsense",
            "Basic dXNlcjpwYXNz",
            "Bearer bs_live_aaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb_00000000",
            "Bearer bs_",
            "Bearer " + "x" * 100_000,
            "Bearer \xff\xfe",
            "Bearer a b c",
            "Token x",
            "Bearer null",
        ],
    )
    async def test_without_a_key_that_stands_nobody_gets_in(
        self, http_client: httpx.AsyncClient, header: str | None
    ) -> None:
        request = http_client.build_request("GET", "/api/keys")
        del request.headers["authorization"]
        if header is not None:
            request.headers = httpx.Headers([*request.headers.raw, (b"authorization", header.encode("latin-1"))])
        answer = await http_client.send(request)
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"

    async def test_the_scheme_may_be_written_in_any_case(self, http_client: httpx.AsyncClient) -> None:
        key = http_client.headers["authorization"].removeprefix("Bearer ")
        answer = await http_client.get("/api/keys", headers={"authorization": f"bEARER   {key} "})
        assert answer.status_code == 200


class TestFailures:
    @pytest.mark.parametrize("path", ["/api/probe/broken", "/api/probe/bad-sql"])
    async def test_a_failure_of_ours_shows_nothing_of_the_inside(
        self, http_client: httpx.AsyncClient, path: str
    ) -> None:
        answer = await http_client.get(path)
        body = problem(answer, 500, "internal")
        assert "secret" not in answer.text
        assert body["trace_id"]


class TestRequestIds:
    async def test_a_good_one_comes_back(self, http_client: httpx.AsyncClient) -> None:
        answer = await http_client.get("/healthz", headers={"x-request-id": "trace:1.2-3_x"})
        assert answer.headers["x-request-id"] == "trace:1.2-3_x"
        answer = await http_client.get("/nothing", headers={"x-request-id": "trace:1.2-3_x"})
        assert answer.json()["trace_id"] == "trace:1.2-3_x"

    @pytest.mark.parametrize(
        "given", [b"", b"a b", b"a" * 129, b"<script>", b"\xe9", b"a\n", b"a\r\nset-cookie: b", b"'"]
    )
    async def test_any_other_is_replaced(self, http_client: httpx.AsyncClient, given: bytes) -> None:
        answer = await http_client.get("/nothing", headers=[(b"x-request-id", given)])
        made = answer.headers["x-request-id"]
        assert made.encode("latin-1") != given
        assert len(made) == 32
        assert answer.json()["trace_id"] == made

    async def test_each_request_gets_its_own(self, http_client: httpx.AsyncClient) -> None:
        assert len({(await http_client.get("/healthz")).headers["x-request-id"] for _ in range(10)}) == 10


class TestDeclarations:
    async def test_a_route_without_a_permission_is_found_wherever_it_hangs(self) -> None:
        forgotten = Router("/api/forgotten", tag="x")
        forgotten.routes.add_api_route("/inside", lambda: None, methods=["GET"])
        api = FastAPI()
        api.include_router(forgotten.routes)
        api.add_api_route("/outside", lambda: None, methods=["POST"])
        assert http.undeclared(api) == ["GET /api/forgotten/inside", "POST /outside"]

    async def test_a_declared_route_is_not_reported(self) -> None:
        api = FastAPI()
        api.include_router(probe.routes)
        assert http.undeclared(api) == []

    async def test_every_route_of_the_app_is_declared_and_documented(self, shared_app: App) -> None:
        assert http.undeclared(shared_app.api) == []
        operations = [
            (method, path, operation)
            for path, item in shared_app.api.openapi()["paths"].items()
            for method, operation in item.items()
        ]
        assert len(operations) > 8
        for method, path, operation in operations:
            assert operation["x-backstay-permission"], (method, path)
            assert operation.get("summary"), (method, path)
            if operation["x-backstay-permission"] != PUBLIC:
                assert {"401", "403"} <= set(operation["responses"]), (method, path)

    async def test_nothing_is_served_that_openapi_does_not_show(self, shared_app: App) -> None:
        documented = {
            (method.upper(), path) for path, item in shared_app.api.openapi()["paths"].items() for method in item
        }
        served = {
            (method, re.sub(r":\w+}", "}", route.path))
            for route in http.routes(shared_app.api)
            for method in route.methods or ()
            if not route.path.startswith(http.DOCS)
        }
        assert served <= documented

    async def test_a_code_means_one_thing(self) -> None:
        def below(kind: type[BackstayError]) -> set[type[BackstayError]]:
            return {kind}.union(*(below(child) for child in kind.__subclasses__()))

        meanings: dict[str, set[tuple[int, str]]] = {}
        for kind in below(BackstayError):
            if kind.__module__.startswith("backstay.") and "code" in vars(kind):
                meanings.setdefault(kind.code, set()).add((kind.status, kind.title))
                assert 400 <= kind.status <= 599, kind
                assert re.fullmatch("[a-z][a-z_]*", kind.code), kind
        assert {code: found for code, found in meanings.items() if len(found) > 1} == {}
