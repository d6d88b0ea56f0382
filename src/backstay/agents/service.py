"""Starts runs that answer questions, and gives back their answers."""

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from ..audit import Audit
from ..content import Content
from ..events import Events
from ..gateway import Gateway
from ..jobs import Discard, Retry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from ..streams import Streams
from ..workflows import Run, StepFailed, Workflows
from . import store
from .agent import Means
from .hands import Hands
from .models import WORKFLOW, Answer, AnswerNotFound, Ask, Outcome, Question, stream_of
from .output import Output
from .roster import Roster
from .speaker import Speaker
from .steps import Steps
from .toolbox import Toolbox

if TYPE_CHECKING:
    from pydantic_ai import Agent as PydanticAgent

    from .pydantic_ai import Durable

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741 -- output, as in Workflow[I, O]
_RETRY = Retry(max_attempts=5, base=timedelta(seconds=0.5), cap=timedelta(seconds=30))


class Agents:
    """Questions of one process' App, answered by runs on whichever worker."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        content: Content,
        gateway: Gateway,
        workflows: Workflows,
        streams: Streams,
        audit: Audit,
        events: Events,
    ) -> None:
        self._db, self._streams, self._audit = db, streams, audit
        self._speaker = Speaker(gateway, streams)
        output = Output(streams, clock)
        workflows.at_end(output.end)
        self.tools = Toolbox()
        self._means = Means(db, workflows, self._speaker, Hands(db, audit, output), output)
        self.roster = Roster(self._means, self.tools)
        self._steps = Steps(clock, content, self._speaker, streams, audit, events)
        self._workflow = workflows.workflow(name=WORKFLOW, retry=_RETRY)(self._answer)

    def durable(self, agent: "PydanticAgent[D, O]", *, model: str) -> "Durable[D, O]":
        """An agent of pydantic-ai whose model requests and tool calls are steps, for use inside of a workflow.

        `model`: a route, or `provider:model`; it takes the place of the agent's own.

        Raises:
            ConfigurationError: the extra `pydantic-ai` is not installed.
        """
        from .pydantic_ai import Durable

        return Durable(self._means, agent, model)

    async def ask(
        self,
        question: str,
        *,
        collection: str,
        model: str,
        by: Principal,
        k: int = 5,
        max_tokens: int | None = None,
        tx: Tx | None = None,
    ) -> Ask:
        """Starts a run that searches `collection`, lets `model` (`provider:model`) answer from the `k` best chunks, and
        stores the answer. Its text streams meanwhile. With `tx` the run exists if and only if that commits.

        The run acts for `by`, whose budgets and permissions hold for the search and the model call.

        Raises:
            pydantic.ValidationError: the question is empty or too long, or a limit is out of range.
        """
        asked = Question(question=question, collection=collection, model=model, k=k, max_tokens=max_tokens)
        async with self._db.join(tx, by.tenant) as tx:
            run = await self._workflow.start(asked, by=by, tx=tx)
            stream = await self._streams.create(by, id=stream_of(run.id), run=run.id, tx=tx)
            about = {"collection": collection, "model": model, "k": k}
            await self._audit.record(
                tx,
                by,
                "agents.asked",
                f"run:{run.id}",
                run=run.id,
                metadata=about,
                payload={"question": question},
            )
            return Ask(run.id, stream.id)

    async def answer(self, by: Principal, run: UUID) -> Answer:
        """The stored answer of a run.

        Raises:
            AnswerNotFound: there is no such run, or it has not answered yet (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            found = await store.get(tx, by.tenant, run)
        if found is None:
            raise AnswerNotFound(f"run {run} has stored no answer; its state is at /api/runs/{run}")
        return found

    async def _answer(self, run: Run, question: Question) -> Outcome:
        by, steps = run.by, self._steps
        try:
            found = await run.step(steps.search, by, question, name="search")
            reply = await run.step(steps.reply, by, run.id, question, found, name="model")
            await run.transaction(steps.store, by, run.id, question, found, reply, name="store")
        except StepFailed as failure:
            reason = failure.error.removeprefix(f"{Discard.__name__}: ")
            await run.transaction(steps.fail, by, run.id, f"step {failure.step}: {reason}", name="fail")
            raise
        return Outcome(outcome=reply.outcome, model=reply.model, cost=reply.cost)
