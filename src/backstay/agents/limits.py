"""How far an agent may go in one reply, and the count of how far it has gone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from ..kernel.errors import ConfigurationError
from .errors import DeadlinePassed, LoopDetected, StepsExhausted, TokensExhausted
from .turn import Call, Turn


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_steps`: model calls and tool calls together. `max_tokens`: input and output of all model calls together.
    `deadline`: from the beginning of the reply. `max_repeats`: how often the same call with the same arguments may be
    made."""

    max_steps: int = 50
    max_tokens: int | None = None
    deadline: timedelta | None = None
    max_repeats: int = 3

    def checked(self, agent: str) -> "Limits":
        """Raises ConfigurationError: one of them allows nothing."""
        for name in ("max_steps", "max_tokens", "max_repeats"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigurationError(f"{name} of the agent {agent} must be at least 1, not {value}")
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise ConfigurationError(f"the deadline of the agent {agent} must be a positive time span")
        return self


class Meter:
    """Counts one reply. It asks nothing of the outside, so a replay counts the same."""

    def __init__(self, limits: Limits, begun: datetime | None = None) -> None:
        self._limits, self._begun = limits, begun
        self._seen: Counter[tuple[str, str]] = Counter()
        self.steps = self.tokens = 0

    def step(self) -> int:
        """The number of the next step.

        Raises:
            StepsExhausted: it would be one too many.
        """
        if self.steps >= self._limits.max_steps:
            raise StepsExhausted(f"{self.steps} model and tool calls were not enough; `max_steps` allows no more")
        self.steps += 1
        return self.steps

    def in_time(self, now: datetime) -> None:
        """Raises DeadlinePassed: the time is up."""
        limit = self._limits.deadline
        if limit is not None and self._begun is not None and now - self._begun >= limit:
            raise DeadlinePassed(f"no answer within {limit.total_seconds():g} s, after {self.steps} steps")

    def heard(self, turn: Turn) -> None:
        """Takes in what the model said.

        Raises:
            TokensExhausted: it goes on, and has no tokens left. LoopDetected: it asks for the same again and again.
        """
        self.tokens += turn.input_tokens + turn.output_tokens
        self._see(turn.calls)
        most = self._limits.max_tokens
        if most is not None and turn.calls and self.tokens >= most:
            raise TokensExhausted(f"{self.tokens} tokens were used and the agent is not done; `max_tokens` is {most}")

    def _see(self, calls: Sequence[Call]) -> None:
        for call in calls:
            same = call.name, _canonical(call.arguments)
            self._seen[same] += 1
            if self._seen[same] > self._limits.max_repeats:
                raise LoopDetected(call.name, call.arguments, self._seen[same])


def _canonical(arguments: str) -> str:
    """The same for arguments that differ in the order of names or in white space."""
    try:
        return orjson.dumps(orjson.loads(arguments or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:
        return arguments
