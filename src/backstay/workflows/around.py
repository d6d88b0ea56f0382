"""What the code of a run reaches beyond its own steps."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from ..events import Events
from ..kernel.db import Tx
from ..kernel.principal import Principal
from .approvals import Approvals
from .signals import Signals


class Start(Protocol):
    """Starts a child: a run of `workflow` for which the step `parent` waits."""

    async def __call__(
        self,
        workflow: Any,
        input: Any,
        *,
        by: Principal,
        deadline: datetime | None,
        parent: tuple[UUID, int],
        tx: Tx,
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Around:
    """The services that a run waits with, and tells with."""

    approvals: Approvals
    signals: Signals
    start: Start
    events: Events
