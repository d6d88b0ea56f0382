"""Where in the run a step stands."""

from datetime import datetime
from typing import Any

from ..jobs import Retry
from .models import StepKind, StepState, StepWrite


class Place:
    """Where in the run a step stands, and what identifies it on replay."""

    __slots__ = ("args_hash", "kind", "name", "retry", "seq")

    def __init__(self, seq: int, kind: StepKind, name: str, args_hash: bytes, retry: Retry) -> None:
        self.seq, self.kind, self.name, self.args_hash, self.retry = seq, kind, name, args_hash, retry

    def write(self, state: StepState, began: datetime, **more: Any) -> StepWrite:
        """What is to be recorded here."""
        return StepWrite(self.seq, self.kind, self.name, self.args_hash, state, began, **more)
