"""One reply of an agent: turns with the model until it answers. Each model call and each tool call is a step."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import ValidationError

from ..jobs import Cancel
from ..workflows import Decision, Run, StepFailed
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
        await self._find_tools()
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

    async def _find_tools(self) -> None:
        """Asks the sources, each in a step: a replay offers what was found then. A name that is taken stays so."""
        for source in self._agent.sources:
            for spec in await self._run.step(source.list_tools, name=f"tools:{source.name}"):
                offer = source.offer(spec)
                self._tools.setdefault(offer.name, offer)

    async def _speak(self) -> Turn:
        run, agent = self._run, self._agent
        say = partial(
            agent.means.speaker.say, run.by, run.id, agent.name, agent.request(self.talk, self._tools.values())
        )
        turn: Turn = await run.step(say, name=f"model:{self.meter.step()}")
        if turn.outcome == "cancelled":
            raise Cancel("somebody asked the stream to stop")
        self.turns.append(turn)
        self.talk.said(turn)
        self.meter.heard(turn)
        return turn

    async def _work(self, turn: Turn) -> list[Result]:
        """The calls of one turn, together; each is a step of its own. Those that need it wait for a human first."""
        names = [f"tool:{call.name[:64]}:{self.meter.step()}" for call in turn.calls]
        refused = [self._refusal(call) for call in turn.calls]
        await self._announce([call for call, reason in zip(turn.calls, refused, strict=True) if reason is None])
        # Steps take their places in the order of the calls: first all that begin now, then all that were decided about.
        first = await asyncio.gather(*map(self._begin, turn.calls, [turn] * len(names), names, refused))
        return await asyncio.gather(*map(self._end, turn.calls, [turn] * len(names), names, first))

    async def _announce(self, calls: list[Call]) -> None:
        """Tells the stream, once, which calls a human is to decide about."""
        run, output = self._run, self._agent.means.output
        asked = [call for call in calls if self._tools[call.name].consent is not None]
        if asked:
            tell = partial(output.ask, by=run.by, run=run.id, agent=self._agent.name, calls=asked)
            await run.transaction(tell, name=f"ask:{self.meter.steps}")

    async def _begin(self, call: Call, turn: Turn, name: str, refused: Result | None) -> Result | Decision[Any]:
        if refused is not None:
            return await self._refuse(call, turn, name, refused)
        consent = self._tools[call.name].consent
        if consent is None:
            return await self._use(call, turn, name)
        return await self._run.approve(
            orjson.loads(call.arguments or "{}"),
            title=f"{self._agent.name}: {call.name}",
            timeout=consent.timeout,
            default=consent.default,
            role=consent.role,
            permission=consent.permission,
            about={"call": str(turn.call), "tool_call": call.id, "tool": call.name, "agent": self._agent.name},
        )

    async def _end(self, call: Call, turn: Turn, name: str, first: Result | Decision[Any]) -> Result:
        if isinstance(first, Result):
            return first
        reason = f" The reason: {first.reason}" if first.reason else ""
        if not first.approved:
            who = "Nobody allowed this call in time." if first.expired else "A human denied this call."
            return await self._refuse(call, turn, name, Result(outcome="denied", text=who + reason))
        if not first.edited:
            return await self._use(call, turn, name, first.approval)
        edited = call.model_copy(update={"arguments": orjson.dumps(first.request).decode()})
        note = f"A human changed the arguments to {edited.arguments} before the call.{reason}\n"
        wrong = self._refusal(edited)
        if wrong is not None:
            return await self._refuse(edited, turn, name, Result(outcome="invalid", text=note + wrong.text))
        result = await self._use(edited, turn, name, first.approval)
        return result.model_copy(update={"text": note + result.text})

    async def _refuse(self, call: Call, turn: Turn, name: str, result: Result) -> Result:
        run, hands = self._run, self._agent.means.hands
        told: Result = await run.step(partial(hands.refuse, run.by, run.id, call, turn.call, result), name=name)
        return told

    async def _use(self, call: Call, turn: Turn, name: str, approval: UUID | None = None) -> Result:
        run, hands = self._run, self._agent.means.hands
        use = partial(hands.use, run.by, run.id, self._tools[call.name], call, turn.call, approval)
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
