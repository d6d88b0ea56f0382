"""Questions, sources and answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from ..kernel.errors import BackstayError, NotFound
from .turn import Turn

WORKFLOW = "agents.answer"
FEATURE = "ask"
"""The feature tag of the model calls, for spend and budgets."""
_STREAMS = UUID("5b1f0c3e-6a0c-5c55-9f0e-2d9f4f4f7a11")


def stream_of(run: UUID) -> UUID:
    """The stream of a run. It follows from the run's id, so a repeated step finds the same one."""
    return uuid5(_STREAMS, str(run))


class Question(BaseModel):
    """What to answer, from which documents, by which model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    question: str = Field(min_length=1, max_length=20_000, description="The question, in words.")
    collection: str = Field(min_length=1, max_length=200, description="The collection to search.")
    model: str = Field(min_length=1, max_length=300, description="`provider:model`, such as `openai:gpt-5-mini`.")
    k: int = Field(5, ge=1, le=50, description="How many chunks the model gets to read.")
    max_tokens: int | None = Field(None, ge=1, le=100_000, description="Output tokens at most.")


class Source(BaseModel):
    """A chunk that the model read. `number` is how the answer cites it: [1] is the best hit."""

    model_config = ConfigDict(frozen=True)
    number: int
    document: str
    heading: tuple[str, ...] = ()
    chunk: UUID
    text: str
    score: float


class Found(BaseModel):
    """Output of the search step."""

    model_config = ConfigDict(frozen=True)
    sources: list[Source]
    mode: str


class Reply(BaseModel):
    """Output of the model step. `cost` is USD; tokens as the provider counted them."""

    model_config = ConfigDict(frozen=True)
    outcome: Literal["answered", "cancelled"]
    model: str
    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)


class Outcome(BaseModel):
    """What the run returns; the answer itself is in its row. `cost` is USD."""

    model_config = ConfigDict(frozen=True)
    outcome: Literal["answered", "cancelled"]
    model: str
    cost: Decimal


class Prompt(BaseModel):
    """What an agent is to answer, and the conversation before it in the OpenAI shape."""

    model_config = ConfigDict(frozen=True)
    text: str
    history: list[dict[str, Any]] = []


class AgentResult(BaseModel):
    """What an agent's own run returns. `output` is the answer: text, or as the agent's output model has it.

    `messages` is the conversation, to go on with. `steps` are model and tool calls; `cost` is USD, of the calls that
    stand: what a crash had repeated is in the ledger beside them.
    """

    output: Any
    model: str
    steps: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    messages: list[dict[str, Any]]

    @classmethod
    def of(cls, turns: Sequence[Turn], steps: int, output: Any, messages: list[dict[str, Any]]) -> "AgentResult":
        return cls(
            output=output,
            model=turns[-1].model,
            steps=steps,
            input_tokens=sum(turn.input_tokens for turn in turns),
            output_tokens=sum(turn.output_tokens for turn in turns),
            cost=sum((turn.cost for turn in turns), Decimal(0)),
            messages=messages,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """A question on its way: the run that answers it and the stream that carries the answer."""

    run: UUID
    stream: UUID


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored answer."""

    run_id: UUID
    stream_id: UUID
    outcome: Literal["answered", "cancelled"]
    question: str
    collection: str
    model: str
    text: str
    sources: list[dict[str, Any]]
    search_mode: str
    input_tokens: int
    output_tokens: int
    cost: Decimal
    created_at: datetime


class AnswerNotFound(NotFound):
    code, title = "answer_not_found", "Answer not found"


class AnswerFailed(BackstayError):
    """Leaves as the terminal `error` event of the run's stream."""

    code, status, title = "answer_failed", 500, "The question could not be answered"
