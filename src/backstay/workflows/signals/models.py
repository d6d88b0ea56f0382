"""Signals as data. No I/O."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from ...kernel.errors import Invalid
from ..models import StepFailed


class SignalInvalid(Invalid):
    """The workflow has declared its signals, and this is none of them; or the payload cannot be stored."""

    code, title = "signal_invalid", "The signal is wrong"


class SignalTimedOut(StepFailed):
    """In a workflow: no signal came in time."""

    code, title = "signal_timed_out", "No signal came in time"


class SignalUnfit(StepFailed):
    """In a workflow: the signal that came does not fit the type that was asked for."""

    code, title = "signal_unfit", "The signal does not fit"


class NewSignal(BaseModel):
    """A signal to send over HTTP."""

    name: str = Field(min_length=1, max_length=200, description="What the workflow asks for by this name.")
    payload: Any = Field(None, description="What comes with it.")
    key: str | None = Field(
        None, min_length=1, max_length=500, description="A second signal of the run with the same key is not sent."
    )


class SignalView(BaseModel):
    """A signal as it was sent. Times are UTC."""

    number: int = Field(description="In the order of their commits, from 1.")
    name: str
    key: str | None = None
    payload: Any = None
    sent_at: datetime
    sender: str
    taken_by: int | None = Field(None, description="The number of the step that got it.")
