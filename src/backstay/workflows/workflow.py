"""A registered workflow, and a run of it that was started."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints
from uuid import UUID

from pydantic import BaseModel, TypeAdapter

from ..jobs import Retry
from ..kernel.db import Tx
from ..kernel.errors import ConfigurationError
from ..kernel.principal import Principal
from . import encoding
from .models import RunDetail, RunInputInvalid
from .run import Run

if TYPE_CHECKING:
    from .service import Workflows

I = TypeVar("I", bound=BaseModel)  # noqa: E741 -- input and output, as in Workflow[I, O]
O = TypeVar("O")  # noqa: E741


class Workflow(Generic[I, O]):
    """A registered workflow. Calling it runs its code inline, as part of another run."""

    def __init__(
        self,
        workflows: "Workflows",
        function: Callable[[Run, I], Awaitable[O]],
        name: str,
        version: str,
        retry: Retry,
        deadline: timedelta | None,
    ) -> None:
        self._workflows = workflows
        self.function, self.name, self.version, self.retry = function, name, version, retry
        self.deadline = deadline
        self.input: TypeAdapter[Any] = TypeAdapter(_input_of(function))
        self.output = encoding.adapter_of(function)

    async def __call__(self, run: Run, input: I) -> O:
        return await self.function(run, input)

    async def start(
        self,
        input: I,
        *,
        key: str | UUID | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        deadline: datetime | timedelta | None = None,
        budget: str | None = None,
        tx: Tx | None = None,
    ) -> "RunHandle":
        """Starts a run of this version, in `tx` when given: it exists if and only if that commits.

        `by` is who the run acts for; without one it acts for `tenant` (or the tenant of `tx`) with every permission.
        Idempotent on `key`: a second start with it returns the first run, whatever its state.

        A run that has not ended by `deadline`, a moment or a time from now, is cancelled, whatever it does or waits
        for. The workflow's own deadline holds when it is earlier.

        `budget`, such as `0.50 USD`, binds every model call that is made as `run.by`, of this run and its children
        together: one that does not fit is refused with BudgetExceeded (402). It is closed when the run ends.

        Raises:
            ConfigurationError: none of `tenant`, `by` and `tx` says which tenant it is for, or the budget is not
                written so.
            RunInputInvalid: the deadline has no time zone.
        """
        return await self._workflows.start_with(
            self, input, key=key, tenant=tenant, by=by, deadline=deadline, budget=budget, tx=tx
        )

    def deadline_of(self, given: datetime | timedelta | None, now: datetime) -> datetime | None:
        """When a run that starts `now` is to have ended."""
        if isinstance(given, datetime) and given.tzinfo is None:
            raise RunInputInvalid("the deadline has no time zone; write it like 2026-01-31T12:00:00Z")
        found = [now + limit if isinstance(limit, timedelta) else limit for limit in (given, self.deadline) if limit]
        return min(found, default=None)


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run that was started."""

    id: UUID
    by: Principal
    workflows: "Workflows"

    async def get(self) -> RunDetail:
        return await self.workflows.get(self.by, self.id)

    async def cancel(self, reason: str | None = None) -> RunDetail:
        """As `Workflows.cancel`."""
        return await self.workflows.cancel(self.by, self.id, reason=reason)

    async def result(self, timeout: float = 60.0) -> Any:
        """As `Workflows.result`."""
        return await self.workflows.result(self.by, self.id, timeout=timeout)


def _input_of(function: Callable[..., Any]) -> type[BaseModel]:
    name = encoding.name_of(function)
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) == 2 and inspect.iscoroutinefunction(function):
        hint = get_type_hints(function).get(parameters[1].name)
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            return hint
    raise ConfigurationError(
        f"the workflow {name} must be `async def {name}(run: Run, input: Model)`, Model being a pydantic model"
    )
