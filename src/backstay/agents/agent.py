"""An agent: a model that may call tools, until it answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from ..jobs import Retry
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from ..workflows import Run, RunHandle, Workflows
from .hands import Hands
from .limits import Limits
from .models import AgentResult, Prompt, stream_of
from .output import Output
from .reply import Reply
from .speaker import Speaker
from .talk import Message, Talk, checked
from .tool import Offer, Source

O = TypeVar("O")  # noqa: E741 -- output, as in Workflow[I, O]
_RETRY = Retry(max_attempts=5, base=timedelta(seconds=0.5), cap=timedelta(seconds=30))


@dataclass(frozen=True, slots=True)
class Means:
    """What agents work with."""

    db: Database
    workflows: Workflows
    speaker: Speaker
    hands: Hands
    output: Output


@dataclass(frozen=True, slots=True)
class AgentRun:
    """A run of an agent's own that was started, and the stream that carries what it says."""

    run: RunHandle
    stream: UUID

    @property
    def id(self) -> UUID:
        return self.run.id

    async def result(self, timeout: float = 60.0) -> AgentResult:
        """What it answered, once it has; as `Workflows.result`."""
        found: AgentResult = await self.run.result(timeout)
        return found


class Agent(Generic[O]):
    """`model`: a route, or `provider:model`. `parameters` are more of the model's request, such as a temperature.
    `output`: what the answer must be, text when it is None."""

    def __init__(
        self,
        name: str,
        model: str,
        means: Means,
        *,
        tools: Sequence[Offer] = (),
        sources: Sequence[Source] = (),
        instructions: str = "",
        output: TypeAdapter[O] | None = None,
        limits: Limits | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.model, self.instructions = name, model, instructions
        self.tools, self.sources = tuple(tools), tuple(sources)
        self.output, self.limits, self.parameters = output, limits or Limits(), dict(parameters or {})
        self.means = means
        self._workflow = means.workflows.workflow(name=f"agent:{name}", retry=_RETRY)(self._answer)

    def __repr__(self) -> str:
        return f"<Agent {self.name}>"

    async def reply(self, run: Run, text: str, *, history: list[Message] | None = None) -> O:
        """What the agent answers to `text`, by steps of `run`; it streams to the run's stream meanwhile.

        `history`: the conversation so far in the OpenAI shape; what is said now is appended to it. When somebody asks
        the stream to stop, the run is cancelled.

        Raises:
            AgentStopped: a limit was reached, or the agent goes round in circles.
            StepFailed: the model cannot be called, as when a budget has no room.
        """
        return (await self._reply(run, text, [] if history is None else history)).output

    async def start(
        self,
        text: str,
        *,
        history: Iterable[Message] = (),
        key: str | UUID | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        budget: str | None = None,
        tx: Tx | None = None,
    ) -> AgentRun:
        """Starts a run of its own that answers `text`; in `tx` when given: it exists if and only if that commits.

        `history` as in `reply`. `key`, `tenant`, `by` and `budget` (`0.50 USD`) as in `Workflow.start`.

        Raises:
            BadRequest: the history is no conversation. ConfigurationError: nothing says which tenant it is for.
        """
        prompt = Prompt(text=text, history=checked(history))
        whose = tenant or (by.tenant if by else None) or (tx.tenant if tx else None)
        if whose is None:
            handle = await self._workflow.start(prompt, key=key)  # says what is missing
        else:
            async with self.means.db.join(tx, whose) as tx:
                handle = await self._workflow.start(prompt, key=key, tenant=whose, by=by, budget=budget, tx=tx)
                await self.means.output.open(handle.by, handle.id, tx)
        return AgentRun(handle, stream_of(handle.id))

    def request(self, talk: Talk, tools: Iterable[Offer]) -> dict[str, Any]:
        """The next model call."""
        body: dict[str, Any] = {**self.parameters, "model": self.model, "messages": talk.told()}
        if offered := [_offered(tool) for tool in tools]:
            body["tools"] = offered
        if self.output is not None:
            schema = {"name": "output", "schema": self.output.json_schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _reply(self, run: Run, text: str, messages: list[Message]) -> Reply[O]:
        await self.means.output.open(run.by, run.id)
        reply = Reply(self, run, Talk(self.instructions, messages, text))
        await reply.make()
        return reply

    async def _answer(self, run: Run, prompt: Prompt) -> AgentResult:
        messages = list(prompt.history)
        reply = await self._reply(run, prompt.text, messages)
        return AgentResult.of(reply.turns, reply.meter.steps, reply.output, messages)


def _offered(tool: Offer) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.schema}
    return {"type": "function", "function": function}
