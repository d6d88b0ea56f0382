"""Approvals as data. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from ...kernel.errors import Conflict, Invalid, NotFound

T = TypeVar("T")
Fallback = Literal["approve", "deny"]


class ApprovalState(StrEnum):
    """pending → approved | denied | expired (nobody decided in time) | withdrawn (the run ended before)."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class ApprovalNotFound(NotFound):
    code, title = "approval_not_found", "Approval not found"


class EditInvalid(Invalid):
    """A field was to be put in place of one of another kind, such as a text for a number."""

    code, title = "approval_edit_invalid", "The edited request is wrong"


class ApprovalClosed(Conflict):
    """It was decided before, has expired, or its run has ended."""

    code, title = "approval_closed", "The approval is not pending any more"

    def __init__(self, id: UUID, state: ApprovalState, decider: str | None) -> None:
        super().__init__(f"approval {id} is {state} already" + (f", by {decider}" if decider else ""))
        self.state, self.decider = state, decider


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What came of `run.approve`.

    `request` is what holds: as it was asked for, or as the decider has edited it. `by` is None when nobody decided in
    time; then `approved` is what the default says.
    """

    approval: UUID
    approved: bool
    edited: bool
    request: T
    by: str | None
    reason: str | None
    at: datetime

    @property
    def expired(self) -> bool:
        return self.by is None


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks for, and of whom. `request` is JSON text."""

    title: str
    request: str
    about: Mapping[str, str]
    role: str | None
    permission: str | None
    fallback: Fallback
    due_at: datetime | None


class ApprovalView(BaseModel):
    """An approval as those who may read it see it. Times are UTC."""

    id: UUID
    run: UUID = Field(description="The run that waits.")
    seq: int = Field(description="The number of its step.")
    workflow: str
    title: str
    request: Any = Field(description="What is to be approved, as it was asked for.")
    about: dict[str, str] = Field(description="Links, such as `call`: the model call that wanted it.")
    role: str | None = Field(None, description="Only this role may decide; owners always may.")
    permission: str | None = Field(None, description="Only who has this permission may decide.")
    fallback: Fallback = Field(description="What holds when nobody decides in time.")
    state: ApprovalState
    asked_at: datetime
    due_at: datetime | None = None
    entry: UUID = Field(description="The audit entry of the request.")
    decided_at: datetime | None = None
    decider: str | None = None
    reason: str | None = None
    edited: dict[str, Any] | None = Field(None, description="The fields that the decider put in place of others.")


class Verdict(BaseModel):
    """What an approver says when approving."""

    reason: str | None = Field(None, max_length=2_000, description="Why.")


class Refusal(BaseModel):
    """What an approver says when denying."""

    reason: str = Field(min_length=1, max_length=2_000, description="Why.")


class Override(BaseModel):
    """What an approver says when approving something else than was asked for."""

    reason: str = Field(min_length=1, max_length=2_000, description="Why.")
    request: dict[str, Any] = Field(
        min_length=1, description="The fields to put in place of those asked for; the others stay."
    )
