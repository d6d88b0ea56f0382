"""One reply of an agent: turns with the model until it answers. Each model call and each tool call is a step."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import ValidationError

from ..jobs import Cancel
from ..workflows import Run, StepFailed
from .errors import OutputInvalid
from .limits import Meter
from .signature import BadArguments
from .talk import Talk
from .turn import Call, Result, Turn

if TYPE_CHECKING:
    from .agent import Agent

O = TypeVar("O")  # noqa: E741 -- output, as in Workflow[I, O]
_CORRECTIONS = 2  # how often a model is told that its answer does not fit the output's model


class Reply(Generic[O]):
    """One reply under way. What is not a step must take the same way each time: it runs again after a crash."""

    def __init__(self, agent: "Agent[O]", run: Run, talk: Talk) -> None:
        self._agent, self._run, self.talk = agent, run, talk
        self._tools = {tool.name: tool for tool in agent.tools}
        self.meter = Meter(agent.limits)
        self.turns: list[Turn] = []
        self.output: O

    async def make(self) -> None:
        """Takes turns with the model until it answers."""
        timed = self._agent.limits.deadline is not None
        self.meter = Meter(self._agent.limits, await self._run.now() if timed else None)
        corrections = 0
        while True:
            if timed:
                self.meter.in_time(await self._run.now())
            turn = await self._speak()
            if turn.calls:
                self.talk.answered(turn.calls, await self._work(turn))
                continue
            wrong = self._read(turn.text)
            if wrong is None:
                return
            corrections += 1
            if corrections > _CORRECTIONS:
                raise OutputInvalid(f"the answer does not fit, the model was told {_CORRECTIONS} times: {wrong}")
            self.talk.mend(wrong)

    async def _speak(self) -> Turn:
        run, agent = self._run, self._agent
        say = partial(agent.means.speaker.say, run.by, run.id, agent.name, agent.request(self.talk))
        turn: Turn = await run.step(say, name=f"model:{self.meter.step()}")
        if turn.outcome == "cancelled":
            raise Cancel("somebody asked the stream to stop")
        self.turns.append(turn)
        self.talk.said(turn)
        self.meter.heard(turn)
        return turn

    async def _work(self, turn: Turn) -> list[Result]:
        """The calls of one turn, together; each is a step of its own."""
        names = [f"tool:{call.name[:64]}:{self.meter.step()}" for call in turn.calls]
        return await asyncio.gather(*map(self._call, turn.calls, [turn] * len(names), names))

    async def _call(self, call: Call, turn: Turn, name: str) -> Result:
        run, hands = self._run, self._agent.means.hands
        refused = self._refusal(call)
        if refused is not None:
            return await run.step(partial(hands.refuse, run.by, run.id, call, turn.call, refused), name=name)
        use = partial(hands.use, run.by, run.id, self._tools[call.name], call, turn.call)
        try:
            result: Result = await run.step(use, name=name)
        except StepFailed as failure:
            return Result(outcome="error", text=f"The tool failed: {failure.error}")
        return result

    def _refusal(self, call: Call) -> Result | None:
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(self._tools) or "none"
            return Result(outcome="invalid", text=f"There is no tool {call.name[:64]!r}. There are: {names}.")
        try:
            tool.check(call.arguments)
        except BadArguments as error:
            return Result(outcome="invalid", text=str(error))
        return None

    def _read(self, text: str) -> str | None:
        """Takes the answer; what is wrong with it when it does not fit."""
        if self._agent.output is None:
            self.output = text  # type: ignore[assignment]  # an agent without an output answers in text
            return None
        try:
            self.output = self._agent.output.validate_json(text)
        except ValidationError as error:
            faults = error.errors(include_input=False, include_url=False)[:5]
            lines = "\n".join(f"- {'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in faults)
            return f"Your answer does not fit the schema:\n{lines}\nAnswer again, with the JSON alone."
        return None
