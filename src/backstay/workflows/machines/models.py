"""Instances and their history as data, and what a machine refuses. No I/O."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from ...kernel.errors import Conflict, Invalid, NotFound


class MachineNotFound(NotFound):
    code, title = "machine_not_found", "State machine not found"


class InstanceNotFound(NotFound):
    code, title = "machine_instance_not_found", "Instance of a state machine not found"


class UnknownEvent(Invalid):
    code, title = "unknown_event", "The state machine has no such event"


class DataInvalid(Invalid):
    """Data that cannot be stored as JSON, or a key that is empty, too long or no text."""

    code, title = "machine_data_invalid", "The key or the data cannot be stored"


class CodeMissing(Conflict):
    """A guard is asked in a process that has only the stored definition, such as the command line."""

    code, title = "machine_code_missing", "The machine's code is not here"


class _InState(Conflict):
    """A refusal that names the state and the events that may be sent in it, in the problem document too."""

    def __init__(self, detail: str, state: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{detail}; in {state!r} it takes {', '.join(map(repr, allowed)) or 'no event'}")
        self.state, self.allowed = state, list(allowed)

    def problem(self, trace_id: str | None = None) -> dict[str, Any]:
        return super().problem(trace_id) | {"state": self.state, "allowed": self.allowed}


class IllegalTransition(_InState):
    """The event leads nowhere from the instance's state; maybe somebody else was faster."""

    code, title = "illegal_transition", "The event is not allowed in this state"


class InstanceMoved(_InState):
    """The instance is not at the sequence number any more that the caller has seen."""

    code, title = "machine_instance_moved", "The instance has moved on"


class GuardRefused(Conflict):
    """A guard said no. A guard raises it itself to give the reason, which the caller sees."""

    code, title = "guard_refused", "A guard refused the transition"


class TimeOut(BaseModel):
    """Input of the job that fires a state's timeout."""

    instance: UUID
    seq: int


class NewInstance(BaseModel):
    """An instance to start over HTTP."""

    machine: str = Field(min_length=1, max_length=200, description="Name of a registered machine.")
    key: str | None = Field(
        None, min_length=1, max_length=500, description="A second start with the same key returns the first instance."
    )
    data: dict[str, Any] = Field(default_factory=dict, description="What the instance is about; guards see it.")


class NewEvent(BaseModel):
    """An event to send over HTTP."""

    event: str = Field(min_length=1, max_length=200, description="One of the machine's events.")
    data: dict[str, Any] = Field(
        default_factory=dict, description="What the guard sees; kept encrypted in the audit entry."
    )
    seq: int | None = Field(
        None, ge=0, lt=2**63, description="Only if the instance is still at this number; 409 otherwise."
    )


class InstanceView(BaseModel):
    """An instance as its owner sees it. Times are UTC."""

    id: UUID
    machine: str
    version: str
    key: str | None = None
    state: str
    seq: int = Field(description="How many transitions it has made.")
    created_at: datetime
    entered_at: datetime = Field(description="When it entered its state.")
    due_at: datetime | None = Field(None, description="When its state times out.")
    finished_at: datetime | None = Field(None, description="When it entered a final state.")


class Instance(InstanceView):
    """An instance with what it is about and what it takes next."""

    data: dict[str, Any] = {}
    allowed: list[str] = Field([], description="Events that may be sent now; their guards are asked then.")


class TransitionView(BaseModel):
    """A step of an instance; the one with number 0 is its start. What came with the event is in the audit entry."""

    seq: int
    event: str | None = None
    from_state: str | None = None
    to_state: str
    at: datetime
    actor_id: UUID
    actor: str
    entry_id: UUID = Field(description="The audit entry.")


class InstanceDetail(Instance):
    """An instance with the newest of its history."""

    history: list[TransitionView] = Field([], description="Newest first, at most 50.")


class MachineState(BaseModel):
    """A state of a machine."""

    name: str
    final: bool = False
    timeout: float | None = Field(None, description="Seconds.")
    on_timeout: str | None = Field(None, description="The event that is sent then.")


class MachineTransition(BaseModel):
    """A legal step of a machine."""

    event: str
    source: str = Field(validation_alias="from", description="The state that it leaves.")
    to: str
    guard: str | None = Field(None, description="The guard's name.")


class MachineView(BaseModel):
    """A version of a machine, as it was registered."""

    name: str
    version: str
    initial: str
    states: list[MachineState]
    transitions: list[MachineTransition]
    mermaid: str = Field(description="A Mermaid stateDiagram-v2.")
    registered_at: datetime

    @classmethod
    def of(cls, document: Mapping[str, Any], mermaid: str, registered_at: datetime) -> "MachineView":
        return cls.model_validate({**document, "mermaid": mermaid, "registered_at": registered_at})
