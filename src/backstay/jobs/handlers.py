"""What runs when a job is claimed: registered handlers, the typed Job to enqueue them by, and their context."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints
from uuid import UUID

from pydantic import BaseModel, TypeAdapter

from ..kernel.db import Database, Tx
from ..kernel.errors import ConfigurationError
from ..kernel.principal import Principal
from . import metrics, store
from .limits import PerKey, Rate
from .models import Claimed, JobLost, Retry
from .progress import DONE, Progress

if TYPE_CHECKING:
    from .service import Jobs

I = TypeVar("I", bound=BaseModel)  # noqa: E741 -- the input model, as in JobContext, I -> None


class JobContext:
    """What a handler may know of its attempt. `attempt` is 1 the first time."""

    __slots__ = ("_began", "_claim", "_db", "_progress", "_timeout")

    def __init__(
        self,
        db: Database,
        claim: Claimed,
        began: datetime,
        timeout: timedelta | None,
        progress: Progress | None = None,
    ) -> None:
        self._db, self._claim, self._began, self._timeout = db, claim, began, timeout
        self._progress = progress

    @property
    def tenant(self) -> UUID:
        return self._claim.tenant

    @property
    def job(self) -> UUID:
        return self._claim.id

    @property
    def name(self) -> str:
        return self._claim.name

    @property
    def queue(self) -> str:
        return self._claim.queue

    @property
    def deadline(self) -> datetime | None:
        """When the attempt times out; None: never."""
        return None if self._timeout is None else self._began + self._timeout

    @property
    def attempt(self) -> int:
        return self._claim.attempt

    @property
    def fence(self) -> int:
        """The number of this claim; no other claim, of this job or any other, ever has the same."""
        return self._claim.fence

    @property
    def by(self) -> Principal:
        """The tenant's system principal, named after the job."""
        return Principal.system(self._claim.tenant, f"job:{self._claim.name}")

    def progress(self, fraction: float, note: str | None = None) -> Awaitable[None]:
        """Tells how far this attempt is, from 0 to 1, for whoever looks at the job: `await context.progress(0.4)`.

        It never waits: the newest word is written within a second, and only while this claim stands. A handler in a
        thread calls it without `await`.

        Raises:
            ValueError: the fraction is not from 0 to 1.
        """
        if self._progress is not None:
            self._progress.tell(self.fence, fraction, note)
        return DONE

    async def hold(self, tx: Tx) -> None:
        """Makes `tx` commit only while this claim stands: call it first in a transaction that must not be written by
        a worker which lost the job meanwhile.

        Raises:
            JobLost: another worker has the job, or may have it by now.
        """
        if not await store.hold(tx, self.tenant, self.job, self.fence, self._db.patience):
            raise JobLost(f"job {self.job} was given to another worker while this one was silent")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """A transaction of the job's tenant that commits only while this claim stands (see `hold`)."""
        async with self._db.tenant_tx(self.tenant) as tx:
            await self.hold(tx)
            yield tx


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered handler. `on_discard` runs in its own attempt when the job is about to be discarded."""

    name: str
    run: Callable[[Any, Any], Any]  # its context is a JobContext or, in another process, a ProcessContext
    input: TypeAdapter[Any]
    queue: str
    retry: Retry
    timeout: timedelta | None
    timeout_seconds: float
    on_discard: Callable[[JobContext, Any, str], Awaitable[None]] | None
    asynchronous: bool
    metrics: metrics.HandlerMetrics = field(repr=False)
    place: str | None = None  # `module:name` for one that runs in a process of its own
    concurrency: PerKey | None = None
    rate: Rate | None = None

    @property
    def limits(self) -> dict[str, Any] | None:
        """As they are stored; None: there are none."""
        if self.concurrency is None and self.rate is None:
            return None
        return {
            "name": self.name,
            "starts": self.rate and self.rate.starts,
            "seconds": self.rate and self.rate.seconds,
            "key_running": self.concurrency and self.concurrency.limit,
        }


class Job(Generic[I]):
    """A registered job, to be enqueued with its typed input."""

    def __init__(self, jobs: Jobs, handler: Handler) -> None:
        self._jobs, self._handler = jobs, handler

    @property
    def name(self) -> str:
        return self._handler.name

    @property
    def queue(self) -> str:
        return self._handler.queue

    @property
    def function(self) -> Callable[..., Any]:
        """What was registered."""
        return self._handler.run

    async def enqueue(
        self,
        input: I,
        *,
        tenant: UUID,
        key: str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tx: Tx | None = None,
    ) -> UUID:
        """As `Jobs.enqueue`."""
        return await self._jobs.enqueue(self.name, input, tenant=tenant, key=key, at=at, priority=priority, tx=tx)


def place_of(function: Callable[..., Any]) -> str:
    """Where another process finds a function: `module:name`.

    Raises:
        ConfigurationError: it would not find it there.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        raise ConfigurationError(
            f"{name or function!r} runs in another process, which must find it by name: define it at the top of a "
            "module that can be imported"
        )
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{name} runs in another process, without an event loop: write `def`, not `async def`")
    return f"{module}:{name}"


def input_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The input model a handler declares as its second parameter.

    Raises:
        ConfigurationError: it declares none.
    """
    parameters = list(inspect.signature(function).parameters.values())
    name = getattr(function, "__qualname__", repr(function))
    if len(parameters) >= 2:
        hint = get_type_hints(function).get(parameters[1].name)
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            return hint
    raise ConfigurationError(f"{name} must take (context, input), with input annotated as a pydantic model")
