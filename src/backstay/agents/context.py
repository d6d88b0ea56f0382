"""What a tool may know of the call that it answers."""

from dataclasses import dataclass
from uuid import UUID

from ..kernel.principal import Principal


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Handed to a tool whose function has a parameter annotated with it; the model does not see that parameter.

    `by`: who the run acts for. `idempotency_key` is the same when a crash has the call repeated: hand it to the service
    that you call. `call`: the model call that asked for this, as in the ledger and the audit.
    """

    by: Principal
    run: UUID
    idempotency_key: str
    call: UUID | None = None
