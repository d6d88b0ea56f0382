"""What budgets and limits have in common: rows of one table that differ in their unit."""

from builtins import list as List
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..audit import Audit
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import Conflict, FieldError, Invalid, NotFound
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import store
from .notices import THRESHOLDS
from .terms import Bound, NewBudget, NewLimit, Unit

View = TypeVar("View")
Form = TypeVar("Form", bound=BaseModel)
READ, WRITE = "budgets:read", "budgets:write"


class Bounds(Generic[View]):
    """Made, listed, changed and deleted. All of it binds the next call of every process."""

    word: ClassVar[str]
    units: ClassVar[tuple[Unit, ...]]
    missing: ClassVar[type[NotFound]]
    exists: ClassVar[type[Conflict]]
    amount: ClassVar[TypeAdapter[Any]]

    def __init__(self, db: Database, clock: Clock, audit: Audit, view: Callable[[Bound], View]) -> None:
        self._db, self._clock, self._audit, self._view = db, clock, audit, view

    async def list(self, by: Principal, after: UUID | None = None, limit: int = 50) -> List[View]:
        """With what their running windows hold and have spent, oldest first."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            found = await store.budgets(tx, by.tenant, self.units, after, limit, self._clock.now())
        return [self._view(bound) for bound in found]

    async def get(self, by: Principal, id: UUID, tx: Tx | None = None) -> View:
        """One, with its running window. Raises BudgetNotFound or LimitNotFound (404)."""
        by.require(READ)
        async with self._db.join(tx, by.tenant) as tx:
            return await self._found(tx, by, id)

    async def change(self, by: Principal, id: UUID, limit: Decimal | int, tx: Tx | None = None) -> View:
        """Another amount, for the running window too. Joins `tx` when given.

        Raises:
            Invalid: a limit that is no amount (422).
            BudgetNotFound, LimitNotFound: there is none (404).
        """
        by.require(WRITE)
        try:
            amount = self.amount.validate_python(limit)
        except ValidationError as error:
            raise _invalid(self.word, error, "limit") from None
        now = self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.change_budget(tx, by.tenant, self.units, id, amount, THRESHOLDS, now):
                raise self._not_found(id)
            metadata = {"limit": str(amount)}
            await self._audit.record(tx, by, f"{self.word}.changed", f"{self.word}:{id}", metadata=metadata)
            return await self._found(tx, by, id)

    async def delete(self, by: Principal, id: UUID, tx: Tx | None = None) -> None:
        """Lifts it. Joins `tx` when given. Raises BudgetNotFound or LimitNotFound (404)."""
        by.require(WRITE)
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.delete_budget(tx, by.tenant, self.units, id):
                raise self._not_found(id)
            await self._audit.record(tx, by, f"{self.word}.deleted", f"{self.word}:{id}")

    async def _add(self, by: Principal, new: NewBudget | NewLimit, tx: Tx | None, **metadata: Any) -> View:
        now, id = self._clock.now(), new_id()
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.add_budget(tx, by.tenant, id, new, now):
                of = f"of {new.scope} {new.subject}" if new.subject else "of the tenant"
                raise self.exists(f"there is a {self.word} {of} by {new.period} already; change or delete it")
            told = {"scope": new.scope, "subject": new.subject, "limit": str(new.limit), "window": new.period}
            await self._audit.record(tx, by, f"{self.word}.created", f"{self.word}:{id}", metadata={**told, **metadata})
            return await self._found(tx, by, id)

    async def _found(self, tx: Tx, by: Principal, id: UUID) -> View:
        bound = await store.budget(tx, by.tenant, self.units, id, self._clock.now())
        if bound is None:
            raise self._not_found(id)
        return self._view(bound)

    def _not_found(self, id: UUID) -> NotFound:
        return self.missing(f"there is no {self.word} {id} in this tenant; list them to see their ids")

    def _checked(self, form: type[Form], given: Mapping[str, Any]) -> Form:
        try:
            return form.model_validate(given)
        except ValidationError as error:
            raise _invalid(self.word, error, self.word) from None


def _invalid(word: str, error: ValidationError, field: str) -> Invalid:
    found = [
        FieldError(".".join(map(str, item["loc"])) or field, item["msg"].removeprefix("Value error, "))
        for item in error.errors()
    ]
    return Invalid(f"the {word} is wrong: {'; '.join(map(_sentence, error.errors()))}", errors=found)


def _sentence(item: Any) -> str:
    message = item["msg"].removeprefix("Value error, ")
    return f"{item['loc'][0]}: {message}" if item["loc"] else message
