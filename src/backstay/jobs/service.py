"""Decides about jobs: registration, enqueue, inspection, retry, cancel. Every write is one transaction."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import ConfigurationError, FieldError
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from . import metrics, store
from .bulk import service as bulk
from .bulk.models import BulkCancel, BulkResult, BulkRetry
from .handlers import Handler, Job, JobContext, input_of, place_of
from .limits import LimitInvalid, PerKey, Rate
from .models import (
    Accepted,
    JobDetail,
    JobFinished,
    JobInputInvalid,
    JobNotFound,
    JobNotRetryable,
    JobState,
    JobView,
    QueueView,
    Retry,
    UnknownJob,
)
from .process_child import ProcessContext
from .queues import store as queue_store
from .remote import store as remote_store
from .remote.models import AnyInput
from .runner import Worker
from .topics import CANCEL, DUE, READY
from .upkeep import KEEP_DAYS

I = TypeVar("I", bound=BaseModel)  # noqa: E741
INLINE_BYTES = 64 * 1024
_log = telemetry.log("jobs")


class Jobs:
    """The queue of one process: registered handlers, enqueue, inspection."""

    def __init__(self, db: Database, clock: Clock, settings: Settings) -> None:
        self.db, self.clock, self.settings = db, clock, settings
        self._handlers: dict[str, Handler] = {}
        self._chores: list[Callable[[], Coroutine[Any, Any, None]]] = []

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What is registered, by name."""
        return self._handlers

    def handler(
        self,
        name: str,
        handler: Callable[[JobContext, I], Any] | Callable[[ProcessContext, I], Any],
        input: type[I],
        *,
        queue: str = "default",
        retry: Retry | None = None,
        timeout: timedelta | None = timedelta(hours=1),
        on_discard: Callable[[JobContext, I, str], Awaitable[None]] | None = None,
        pool: Literal["thread", "process"] = "thread",
        concurrency: PerKey | None = None,
        rate: str | None = None,
    ) -> Job[I]:
        """Registers what runs for jobs called `name`. An async function runs in the event loop, another in a thread.

        With `pool="process"` a function runs in a process of its own, for work that keeps a CPU busy: at most one per
        CPU, killed when the attempt times out or is cancelled. It must stand at the top of a module, and gets a
        ProcessContext, which has no database. The wait for a free process counts against the timeout.

        An attempt that lasts longer than `timeout` is cancelled and counts as failed (a thread cannot be stopped: it
        runs on, its outcome is ignored). `on_discard` is told before a job is discarded, and why.

        `concurrency` is how many run at once for each key of a tenant, `rate` how many start in any such time
        (`100/minute`), both over all workers. What waits for either stays available and holds up nothing else.

        Raises:
            ConfigurationError: the name is taken, or another process could not find the function.
            LimitInvalid: the rate is not written like one.
        """
        if name in self._handlers:
            raise ConfigurationError(f"the job {name} is registered twice; give one of them another name")
        entry = Handler(
            name=name,
            run=handler,
            input=TypeAdapter(input),
            queue=queue,
            retry=retry or Retry(),
            timeout=timeout,
            timeout_seconds=float("inf") if timeout is None else timeout.total_seconds(),
            on_discard=on_discard,
            asynchronous=inspect.iscoroutinefunction(handler)
            or inspect.iscoroutinefunction(getattr(handler, "__call__", None)),  # noqa: B004
            metrics=metrics.of(queue, name),
            place=place_of(handler) if pool == "process" else None,
            concurrency=concurrency,
            rate=Rate.read(rate) if rate else None,
        )
        self._handlers[name] = entry
        return Job(self, entry)

    def job(
        self,
        *,
        name: str | None = None,
        queue: str = "default",
        retry: Retry | None = None,
        timeout: timedelta | None = timedelta(hours=1),
        pool: Literal["thread", "process"] = "thread",
        concurrency: PerKey | None = None,
        rate: str | None = None,
    ) -> Callable[[Callable[[JobContext, I], Any]], Job[I]]:
        """As a decorator: `@jobs.job(queue="mail")` over `async def send(context: JobContext, mail: Mail)`.

        The name is the function's own unless given; the input model is read from its second parameter.
        """

        def register(function: Callable[[JobContext, I], Any]) -> Job[I]:
            known_as: str = name or function.__name__
            input_model: Any = input_of(function)
            return self.handler(
                known_as,
                function,
                input_model,
                queue=queue,
                retry=retry,
                timeout=timeout,
                pool=pool,
                concurrency=concurrency,
                rate=rate,
            )

        return register

    def chore(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Has every worker run `loop` beside its jobs. It runs for ever, until it is cancelled."""
        self._chores.append(loop)

    async def enqueue(
        self,
        name: str,
        input: BaseModel,
        *,
        tenant: UUID,
        key: str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        queue: str | None = None,
        tx: Tx | None = None,
    ) -> UUID:
        """Adds a job, in `tx` when given: it exists if and only if that commits. Returns its id.

        It runs at or after `at` (timezone-aware; now when None), a higher `priority` first, on `queue` or the queue
        it was registered with.

        With a `key`, at most one job of this tenant, name and key waits: while one does (scheduled, available or
        retryable), its id is returned and its input stays, but it is brought forward to the earlier time and the
        higher priority. A *running* one does not count, for it may have read what this caller has just changed: a new
        job is queued and starts when the running one has ended. The waiting job's row stays locked until the caller's
        transaction ends, so it cannot run before the caller's change is committed. When an attempt fails while a newer
        job with its key waits, the newer one does the work and the older ends as cancelled.

        Raises:
            JobInputInvalid: the input cannot be stored as JSON, or the key is empty or over 500 characters.
        """
        return (
            await self.enqueue_many(name, [(key, input)], tenant=tenant, at=at, priority=priority, queue=queue, tx=tx)
        )[0]

    async def enqueue_many(
        self,
        name: str,
        inputs: Sequence[tuple[str | None, BaseModel]],
        *,
        tenant: UUID,
        at: datetime | None = None,
        priority: int = 0,
        queue: str | None = None,
        remote: bool = False,
        tx: Tx | None = None,
    ) -> list[UUID]:
        """Adds many jobs of one name in one statement; each has its own key or None. Returns their ids in order.

        Two inputs with the same key are one job, with the first one's input. See `enqueue`. A `remote` job is
        left to remote workers.
        """
        if not inputs:
            return []
        handler = self._handlers.get(name)
        to = queue or (handler.queue if handler else "default")
        now = self.clock.now()
        run_at = now if at is None else at
        if run_at.tzinfo is None:
            raise JobInputInvalid("`at` has no time zone; use an aware datetime, such as datetime.now(UTC)")
        state = JobState.AVAILABLE if run_at <= now else JobState.SCHEDULED
        ids, rows, blobs = _rows(inputs, handler.concurrency if handler else None)
        async with self.db.join(tx, tenant, pipelined=True) as tx:
            standing = await store.enqueue(
                tx,
                tenant=tenant,
                queue=to,
                name=name,
                state=state,
                priority=priority,
                run_at=run_at,
                now=now,
                rows=_array(rows.values()),
                remote=remote,
            )
            if blobs:
                await store.add_blobs(tx, tenant, _array(blobs.values()), now)
            tx.notify(READY if state == JobState.AVAILABLE else DUE, to)
        by_key = {key: id for id, key in await standing() if key is not None}
        return [id if key is None else by_key[key] for id, (key, _) in zip(ids, inputs, strict=True)]

    async def enqueue_raw(
        self,
        name: str,
        input: Mapping[str, Any],
        *,
        by: Principal,
        key: str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        queue: str | None = None,
        tx: Tx | None = None,
    ) -> JobDetail:
        """As `enqueue`, for input that comes from outside: it is checked against the job's model first.

        Raises:
            UnknownJob: no handler of that name is registered here, and no remote worker of the tenant named it.
            JobInputInvalid: the input does not fit the model.
        """
        if at is not None and at.tzinfo is None:
            raise JobInputInvalid("`at` has no time zone; write it like 2026-01-31T12:00:00Z")
        async with self.db.join(tx, by.tenant) as tx:
            accepted = await self.accept(tx, by.tenant, name, input)
            [id] = await self.enqueue_many(
                name,
                [(key, accepted.input)],
                tenant=by.tenant,
                at=at,
                priority=priority,
                queue=queue or accepted.queue,
                remote=accepted.remote,
                tx=tx,
            )
            return await self.get(by, id, tx=tx)

    async def accept(self, tx: Tx, tenant: UUID, name: str, input: Mapping[str, Any]) -> Accepted:
        """Who runs jobs of this name, and the input as they want it.

        Raises:
            UnknownJob: no handler of that name is registered here, and no remote worker of the tenant named it.
            JobInputInvalid: the input does not fit the handler's model.
        """
        if (handler := self._handlers.get(name)) is None:
            return await self._accept_remote(tx, tenant, name, input)
        try:
            return Accepted(handler.input.validate_json(orjson.dumps(input)), handler.queue, remote=False)
        except ValidationError as error:
            raise _wrong_input(name, error) from None

    async def get(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> JobDetail:
        """One job with its input.

        Raises:
            JobNotFound: the tenant has none of that id, or it finished so long ago that its day was dropped.
        """
        async with self.db.join(tx, by.tenant) as tx:
            job = await store.find(tx, by.tenant, id)
        if job is None:
            raise JobNotFound(f"there is no job {id}; finished ones are kept for {KEEP_DAYS} days")
        return job

    async def retry(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> JobDetail:
        """Runs a discarded, cancelled, retryable or scheduled job now; a finished one begins with a fresh count.

        Raises:
            JobNotFound, JobNotRetryable: it is completed, available or running.
        """
        now = self.clock.now()
        async with self.db.join(tx, by.tenant) as tx:
            queue = await store.revive(tx, by.tenant, id, now) or await store.hasten(tx, by.tenant, id, now)
            job = await self.get(by, id, tx=tx)
            if queue is None:
                raise JobNotRetryable(f"job {id} is {job.state}; only one that waits or has failed can be retried")
            tx.notify(READY, queue)
            return job

    async def cancel(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> JobDetail:
        """Finishes a waiting job as cancelled; asks the worker of a running one to stop it.

        Raises:
            JobNotFound, JobFinished
        """
        async with self.db.join(tx, by.tenant) as tx:
            if not await store.cancel_waiting(tx, by.tenant, id, self.clock.now()):
                if await store.ask_to_cancel(tx, by.tenant, id):
                    tx.notify(CANCEL)
                else:
                    job = await self.get(by, id, tx=tx)
                    raise JobFinished(f"job {id} is {job.state} already")
            return await self.get(by, id, tx=tx)

    async def queues(self, by: Principal) -> list[QueueView]:
        """The tenant's hot jobs by queue."""
        async with self.db.tenant_tx(by.tenant) as tx:
            rows = await store.queues(tx, by.tenant)
        views: dict[str, QueueView] = {}
        for row in rows:
            view = views.setdefault(row["queue"], QueueView(name=row["queue"], paused=row["paused"]))
            setattr(view, row["state"], row["jobs"])
            view.oldest = min(filter(None, (view.oldest, row["oldest"])))
        return list(views.values())

    async def pause(self, queue: str) -> None:
        """No worker claims from `queue` any more, for any tenant; what runs ends normally."""
        async with self.db.system_tx() as tx:
            await queue_store.pause(tx, queue, paused=True)

    async def resume(self, queue: str) -> None:
        async with self.db.system_tx() as tx:
            await queue_store.pause(tx, queue, paused=False)
            tx.notify(READY, queue)

    async def limit(self, queue: str, max_running: int | None = None, *, rate: str | None = None) -> None:
        """At most `max_running` jobs of `queue` run at once and `rate` (such as `100/minute`) start, over all workers;
        None: no limit. Workers learn of a new limit with their next look around.

        Raises:
            LimitInvalid
        """
        read = Rate.read(rate) if rate else None
        async with self.db.system_tx() as tx:
            await queue_store.limit(tx, queue, max_running, read)
            tx.notify(READY, queue)

    async def share(self, queue: str, tenant: UUID, *, weight: float = 1.0, max_running: int | None = None) -> None:
        """What `tenant` gets of `queue`: while several tenants have jobs waiting, its part of the starts is its weight
        over the sum of theirs (1 each unless set), and at most `max_running` of its jobs run at once.

        Raises:
            LimitInvalid: the weight is not positive.
        """
        if not 0 < weight <= 1_000:
            raise LimitInvalid("a weight is above 0 and at most 1000")
        async with self.db.system_tx() as tx:
            await queue_store.lock(tx, queue)
            await queue_store.set_share(tx, queue, tenant, weight, max_running)
            tx.notify(READY, queue)

    def worker(
        self,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        *,
        lease: timedelta | None = None,
        grace: timedelta = timedelta(seconds=20),
    ) -> Worker:
        """A worker for `queues` (None: those of every registered handler), `concurrency` jobs at once.

        `grace` is how long it lets running jobs end when it is told to stop.
        """
        return Worker(
            self.db,
            self.clock,
            self._handlers,
            chores=self._chores,
            queues=queues,
            concurrency=concurrency or self.settings.worker_concurrency,
            lease=lease or timedelta(seconds=self.settings.lease_seconds),
            grace=grace,
        )

    async def _accept_remote(self, tx: Tx, tenant: UUID, name: str, input: Mapping[str, Any]) -> Accepted:
        known = await remote_store.declared(tx, tenant, [name])
        if name not in known:
            here = ", ".join(sorted(self._handlers)) or "none"
            raise UnknownJob(
                f"no job is called {name!r}; registered here: {here}; and no remote worker has registered it"
            )
        return Accepted(AnyInput(dict(input)), known[name].queue, remote=True)

    async def retry_many(self, by: Principal, which: BulkRetry) -> BulkResult:
        """Runs all the jobs again that `which` describes; dead ones unless it says otherwise. Each batch commits on its
        own, and two calls at once revive each job once."""
        return await bulk.retry_many(self.db, self.clock, by, which)

    async def cancel_many(self, by: Principal, which: BulkCancel) -> BulkResult:
        """Cancels all the jobs that `which` describes; waiting ones unless it says otherwise. See `retry_many`."""
        return await bulk.cancel_many(self.db, self.clock, by, which)

    async def list(
        self,
        by: Principal,
        *,
        limit: int = 50,
        after: UUID | None = None,
        state: JobState | None = None,
        queue: str | None = None,
        name: str | None = None,
    ) -> list[JobView]:
        """Jobs of the caller's tenant, newest first, older than the job `after`."""
        async with self.db.tenant_tx(by.tenant) as tx:
            return await store.page(tx, by.tenant, after=after, limit=limit, state=state, queue=queue, name=name)


def _rows(
    inputs: Sequence[tuple[str | None, BaseModel]], concurrency: PerKey | None
) -> tuple[list[UUID], dict[object, bytes], dict[UUID, bytes]]:
    """An id for each input; the rows to insert (one for each distinct key); those whose payload is large."""
    ids: list[UUID] = []
    rows: dict[object, bytes] = {}
    blobs: dict[UUID, bytes] = {}
    for key, input in inputs:
        if key is not None and not 0 < len(key) <= 500:
            raise JobInputInvalid("a unique key has 1 to 500 characters")
        id = new_id()
        ids.append(id)
        if key is not None and key in rows:
            continue
        payload = input.model_dump_json().encode()
        if b"\\u0000" in payload and _has_nul(orjson.loads(payload)):
            raise JobInputInvalid("the input has a NUL character, which Postgres cannot store in text")
        if key is not None and "\0" in key:
            raise JobInputInvalid("the unique key has a NUL character, which Postgres cannot store in text")
        row_key = b"null" if key is None else orjson.dumps(key)
        inline = payload
        if len(payload) > INLINE_BYTES:
            blobs[id] = b'{"id":"%s","payload":%s}' % (str(id).encode(), payload)
            inline = b"null"
        row = b'{"id":"%s","unique_key":%s,"payload":%s' % (str(id).encode(), row_key, inline)
        if concurrency is not None:
            row += b',"limit_key":' + orjson.dumps(concurrency.of(input))
        rows[id if key is None else key] = row + b"}"
    return ids, rows, blobs


def _array(rows: Any) -> bytes:
    return b"[" + b",".join(rows) + b"]"


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(item) for pair in value.items() for item in pair)
    return isinstance(value, list) and any(map(_has_nul, value))


def _wrong_input(name: str, error: ValidationError) -> JobInputInvalid:
    fields = [
        FieldError(".".join(("input", *map(str, item["loc"]))), item["msg"])
        for item in error.errors(include_input=False, include_url=False)
    ]
    return JobInputInvalid(f"the input of job {name} is wrong: {fields[0].field}: {fields[0].message}", errors=fields)
