"""`/api/agents`: have an agent answer, or ask a question of documents. What it says streams from
`/api/streams/{stream}/events` meanwhile.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ..kernel.db import Tx
from ..kernel.http import Caller, Router, service
from ..workflows.models import BUDGET
from .agent import Agent, AgentRun
from .errors import AgentNotFound
from .models import Answer, AnswerNotFound, Ask, Question
from .service import Agents

router = Router("/api/agents", tag="agents")
Service = Annotated[Agents, service("agents")]


class AskView(BaseModel):
    """A question on its way."""

    run: UUID
    stream: UUID
    events_url: str
    answer_url: str

    @classmethod
    def of(cls, ask: Ask) -> "AskView":
        return cls(
            run=ask.run,
            stream=ask.stream,
            events_url=f"/api/streams/{ask.stream}/events",
            answer_url=f"/api/agents/answers/{ask.run}",
        )


class SourceView(BaseModel):
    """A chunk that the model read; `number` is how the answer cites it."""

    number: int
    document: str
    heading: list[str]
    text: str
    score: float


class AnswerView(BaseModel):
    """A stored answer. `cost` is USD as a decimal string."""

    run: UUID
    stream: UUID
    outcome: Literal["answered", "cancelled"]
    question: str
    collection: str
    model: str
    text: str
    sources: list[SourceView]
    search_mode: str
    input_tokens: int
    output_tokens: int
    cost: Decimal
    created_at: datetime

    @classmethod
    def of(cls, answer: Answer) -> "AnswerView":
        return cls(
            run=answer.run_id,
            stream=answer.stream_id,
            outcome=answer.outcome,
            question=answer.question,
            collection=answer.collection,
            model=answer.model,
            text=answer.text,
            sources=[SourceView.model_validate(source) for source in answer.sources],
            search_mode=answer.search_mode,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            cost=answer.cost,
            created_at=answer.created_at,
        )


class ToolView(BaseModel):
    """A tool that an agent may call. `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]
    requires_approval: bool


class AgentView(BaseModel):
    """A registered agent."""

    name: str
    model: str
    instructions: str
    tools: list[ToolView]

    @classmethod
    def of(cls, agent: Agent[Any]) -> "AgentView":
        tools = [
            ToolView(
                name=tool.name,
                description=tool.description,
                parameters=tool.schema,
                requires_approval=tool.consent is not None,
            )
            for tool in agent.tools
        ]
        return cls(name=agent.name, model=agent.model, instructions=agent.instructions, tools=tools)


class NewAgentRun(BaseModel):
    """What an agent is to answer."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=200_000, description="What it is told.")
    history: list[dict[str, Any]] = Field(
        default_factory=list, max_length=1_000, description="The conversation before, in the OpenAI shape."
    )
    key: str | None = Field(
        None, min_length=1, max_length=500, description="A second start with the same key returns the first run."
    )
    budget: str | None = Field(
        None, pattern=BUDGET, description="What it and its children may spend, such as `0.50 USD`."
    )


class AgentRunView(BaseModel):
    """A run of an agent on its way."""

    run: UUID
    stream: UUID
    events_url: str
    run_url: str

    @classmethod
    def of(cls, started: AgentRun) -> "AgentRunView":
        return cls(
            run=started.id,
            stream=started.stream,
            events_url=f"/api/streams/{started.stream}/events",
            run_url=f"/api/runs/{started.id}",
        )


@router.get("", permission="runs:read")
async def index(by: Caller, agents: Service) -> list[AgentView]:
    """The agents that are registered here, by name."""
    return [AgentView.of(agents.roster.find(name)) for name in agents.roster.names]


@router.post("/{name}/runs", permission="runs:write", status=202, errors=[AgentNotFound])
async def start(name: str, body: NewAgentRun, by: Caller, tx: Tx, agents: Service) -> AgentRunView:
    """Have an agent answer. The run acts for the caller; what it says streams meanwhile."""
    agent = agents.roster.find(name)
    started = await agent.start(body.text, history=body.history, key=body.key, by=by, budget=body.budget, tx=tx)
    return AgentRunView.of(started)


@router.post("/ask", permission="runs:write", status=202)
async def ask(body: Question, by: Caller, tx: Tx, agents: Service) -> AskView:
    """Ask a question. A durable run searches the collection, calls the model and stores the answer."""
    asked = await agents.ask(
        body.question,
        collection=body.collection,
        model=body.model,
        k=body.k,
        max_tokens=body.max_tokens,
        by=by,
        tx=tx,
    )
    return AskView.of(asked)


@router.get("/answers/{run}", permission="runs:read", errors=[AnswerNotFound])
async def answer(run: UUID, by: Caller, agents: Service) -> AnswerView:
    """The stored answer of a run; 404 until there is one."""
    return AnswerView.of(await agents.answer(by, run))
