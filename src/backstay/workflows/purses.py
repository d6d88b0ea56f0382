"""The budget of a run: opened when it starts, closed when it ends."""

from dataclasses import replace
from uuid import UUID

from ..gateway import Allowance, Budgets
from ..kernel.db import Tx
from ..kernel.errors import ConfigurationError
from ..kernel.principal import Principal
from .models import RunEnd


class Purses:
    """Budgets of runs, in the transactions that start and end these."""

    def __init__(self, budgets: Budgets | None) -> None:
        self._budgets = budgets

    async def open(self, tx: Tx, by: Principal, run: UUID, budget: str) -> None:
        """Raises ConfigurationError: it is not written like `0.50 USD`, or there is no gateway here that counts."""
        if self._budgets is None:
            raise ConfigurationError("these workflows know no gateway, so nothing would count what a run spends")
        await self._budgets.open_purse(tx, by, run, Allowance.read(budget))

    async def close(self, tx: Tx, ended: RunEnd) -> None:
        if self._budgets is not None:
            await self._budgets.close_purse(tx, ended.tenant, ended.id)


def within(by: Principal, run: UUID) -> Principal:
    """`by`, bound by the budget of `run` as well."""
    return replace(by, purses=(*by.purses, run))
