"""The job `http`: calls an address, again where that may help, and keeps the answer's beginning."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from pydantic import AfterValidator
from yarl import URL

from ..audit import Audit
from ..events import Events
from ..jobs import Discard, JobContext, Jobs, Retry, RetryLater, Snooze
from ..kernel import telemetry
from ..kernel.crypto import Unsealable, Vault
from ..kernel.db import Tx
from ..kernel.settings import Settings
from ..outbound import (
    AddressGuard,
    AddressPolicy,
    AddressRefused,
    Answer,
    Overdue,
    RedirectRefused,
    Request,
    Resting,
    Unreachable,
    retry_after,
)
from .http_call import HttpCall
from .results import Results

if TYPE_CHECKING:
    from ..outbound.client import Client

_EXCERPT = 4_000  # characters of an answer that are kept
_TOLD = 500  # characters of it in the reason of a failure
_SHORTEST_SECRET = 6
_RETRY = Retry(max_attempts=12, base=timedelta(seconds=2), cap=timedelta(minutes=30))
_calls = telemetry.counter("backstay_http_job_calls_total", "Attempts of `http` jobs.", ["outcome"])


class HttpJob:
    """`app.http`. Enqueues calls, and makes them when a worker runs the job."""

    def __init__(
        self, jobs: Jobs, settings: Settings, vault: Vault, audit: Audit, events: Events, results: Results
    ) -> None:
        self._guard = AddressGuard(AddressPolicy.listed(settings.private_networks))
        self._vault, self._audit, self._events, self._results = vault, audit, events, results
        self._client: Client | None = None
        # However the input comes in, it is sealed before the queue sees it.
        sealed: Any = Annotated[HttpCall, AfterValidator(self.sealed)]
        self.job = jobs.handler("http", self._run, sealed, retry=_RETRY, timeout=timedelta(minutes=6))

    def sealed(self, call: HttpCall) -> HttpCall:
        """The call as it may be stored: for `app.schedule("ping", app.http.job, app.http.sealed(call), …)`."""
        return call.sealed(self._vault)

    async def enqueue(
        self,
        call: HttpCall,
        *,
        tenant: UUID,
        key: str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tx: Tx | None = None,
    ) -> UUID:
        """Has `call` made once the transaction commits. Returns the job's id. See `Jobs.enqueue`."""
        return await self.job.enqueue(self.sealed(call), tenant=tenant, key=key, at=at, priority=priority, tx=tx)

    async def close(self) -> None:
        """Closes the connections that calls have left open."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _run(self, context: JobContext, call: HttpCall) -> None:
        if await self._results.stands(context):
            return
        headers = self._opened(call)
        try:
            answer = await self._connected().call(_request(context, call, headers), party=context.tenant)
        except Resting as error:
            _calls.labels("rested").inc()
            raise Snooze(timedelta(seconds=max(1.0, error.after)), error.detail) from None
        except (AddressRefused, RedirectRefused) as error:
            _calls.labels("refused").inc()
            raise Discard(error.detail) from None
        except (Unreachable, Overdue) as error:
            _calls.labels("failed").inc()
            raise RetryLater(error.detail) from None
        excerpt = _excerpt(answer, headers)
        if call.expects(answer.status):
            _calls.labels("answered").inc()
            await self._keep(context, call, answer, excerpt)
            return
        reason = f"{call.host} answered {answer.status} to {call.method}: {excerpt[:_TOLD]}".rstrip(": ")
        _calls.labels("failed" if answer.transient else "refused").inc()
        if answer.transient:
            raise RetryLater(reason, _wait(answer))
        raise Discard(reason)

    def _connected(self) -> "Client":
        if self._client is None:
            # Imported when the first call is made: the HTTP library takes a good part of a start.
            from ..outbound.client import Client

            self._client = Client(self._guard)
        return self._client

    def _opened(self, call: HttpCall) -> dict[str, str]:
        try:
            return call.opened(self._vault)
        except Unsealable:
            raise RetryLater(
                "its headers do not open: they were sealed for another host, or BACKSTAY_MASTER_KEY is another one"
            ) from None

    async def _keep(self, context: JobContext, call: HttpCall, answer: Answer, excerpt: str) -> None:
        told = {"job_id": str(context.job), "host": call.host, "method": call.method, "status": answer.status}
        # Without its query, where a redirect may have put a key.
        shown = {
            "url": str(URL(answer.url).with_query(None)),
            "excerpt": excerpt,
            "cut": answer.cut or len(answer.body) > _EXCERPT,
        }
        media_type = answer.headers.get("content-type", "")[:200]
        async with context.transaction() as tx:
            result = {"status": answer.status, "content_type": media_type, "attempt": context.attempt, **shown}
            await self._results.keep(tx, context, result)
            await self._audit.record(tx, context.by, "http.call", f"job:{context.job}", metadata=told)
            await self._events.emit(tx, "http.answered", told)


def _request(context: JobContext, call: HttpCall, headers: dict[str, str]) -> Request:
    body, kind = call.payload()
    repeated = {call.idempotency_header.lower(): str(context.job)}
    return Request(call.method, call.url, kind | repeated | headers, body, call.timeout, call.redirects)


def _excerpt(answer: Answer, headers: dict[str, str]) -> str:
    """The beginning of an answer as text. A service that repeats what it was sent must not give our secrets away."""
    text = answer.body.decode("utf-8", "replace").replace("\0", "")
    for value in headers.values():
        for secret in {value, value.rpartition(" ")[2]}:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "…")
    return telemetry.scrub(text[:_EXCERPT])


def _wait(answer: Answer) -> timedelta | None:
    seconds = retry_after(answer.headers, datetime.now(UTC))
    return None if seconds is None else timedelta(seconds=seconds)
