"""One run of an agent of pydantic-ai under way: numbers its steps, and takes them."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

from ...jobs import Cancel
from ...workflows import Run
from ..agent import Means
from ..turn import Call, Turn
from .outcome import Made, Outcome


class Journey:
    """`over`: why it ended, when it did not come to its end."""

    def __init__(self, means: Means, run: Run, name: str) -> None:
        self._means, self._run, self._name = means, run, name
        self._steps = 0
        self._turn: UUID | None = None
        self.over: BaseException | None = None

    async def say(self, request: Mapping[str, Any]) -> Turn:
        """The model call, as a step."""
        run, speaker = self._run, self._means.speaker
        say = partial(speaker.say, run.by, run.id, self._name, request)
        turn: Turn = await run.step(say, name=f"model:{self._next()}")
        if turn.outcome == "cancelled":
            self.over = Cancel("somebody asked the stream to stop")
            raise self.over
        self._turn = turn.call
        return turn

    async def use(self, call: Call, made: Made) -> Outcome:
        """The tool call, as a step."""
        step = partial(self._use, call, self._turn, made)
        outcome: Outcome = await self._run.step(step, name=f"tool:{call.name[:64]}:{self._next()}")
        return outcome

    async def _use(self, call: Call, turn: UUID | None, made: Made, idempotency_key: str) -> Outcome:
        run, hands = self._run, self._means.hands
        result = await hands.use(run.by, run.id, made, call, turn, None, idempotency_key)
        return Outcome(kind=made.kind, text=result.text)

    def _next(self) -> int:
        self._steps += 1
        return self._steps
