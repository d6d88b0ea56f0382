"""What the steps of an agent leave behind: what the model said, and what came of the calls that it asked for."""

from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Call(BaseModel):
    """A tool that the model wants called. `arguments` is the JSON text that it wrote."""

    model_config = ConfigDict(frozen=True)
    id: str
    name: str
    arguments: str


class Turn(BaseModel):
    """Output of a model step. `call` names it in the ledger and the audit; `cost` is USD.

    Tokens are as the provider counted them. `thoughts` are those that the provider wants back unmodified with the
    calls that came of them.
    """

    model_config = ConfigDict(frozen=True)
    outcome: Literal["answered", "cancelled"]
    model: str
    text: str = ""
    calls: tuple[Call, ...] = ()
    thoughts: tuple[dict[str, Any], ...] = ()
    call: UUID | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)


class Result(BaseModel):
    """Output of a tool step: what the model is told.

    ok: the tool's result. error: it failed. invalid: the arguments did not fit, or there is no such tool. denied: a
    human said no.
    """

    model_config = ConfigDict(frozen=True)
    outcome: Literal["ok", "error", "invalid", "denied"]
    text: str
