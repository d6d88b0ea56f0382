"""`/api/agents`: ask a question, fetch its answer. The answer streams from `/api/streams/{stream}/events`
meanwhile.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel

from ..kernel.db import Tx
from ..kernel.http import Caller, Router, service
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
