"""The steps of a run that answers a question: search, model, store."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..audit import Audit
from ..content import Content
from ..events import Events
from ..kernel.clock import Clock
from ..kernel.db import Tx
from ..kernel.principal import Principal
from ..streams import NewEvent, Streams
from . import store
from .models import FEATURE, Answer, AnswerFailed, Found, Question, Reply, Source, stream_of
from .prompt import request
from .speaker import Speaker

_CITED = {"number", "document", "heading"}


class Steps:
    """What the run does in each step. Each may be begun again after a crash."""

    def __init__(
        self, clock: Clock, content: Content, speaker: Speaker, streams: Streams, audit: Audit, events: Events
    ) -> None:
        self._clock, self._content, self._speaker = clock, content, speaker
        self._streams, self._audit, self._events = streams, audit, events

    async def search(self, by: Principal, question: Question) -> Found:
        """The best chunks, numbered from 1."""
        answer = await self._content.search(by, question.collection, question.question, k=question.k)
        sources = [
            Source(
                number=number,
                document=hit.id,
                heading=hit.heading,
                chunk=hit.chunk,
                text=hit.text,
                score=hit.score,
            )
            for number, hit in enumerate(answer.hits, start=1)
        ]
        return Found(sources=sources, mode=answer.mode)

    async def reply(self, by: Principal, run: UUID, question: Question, found: Found, idempotency_key: str) -> Reply:
        """The model's answer, written to the run's stream while it comes."""
        turn = await self._speaker.say(by, run, FEATURE, request(question, found.sources), idempotency_key)
        return Reply.model_validate(turn, from_attributes=True)

    async def store(self, tx: Tx, by: Principal, run: UUID, question: Question, found: Found, reply: Reply) -> None:
        """The answer, its audit entry, its event and the end of its stream, in one transaction."""
        stream, now = stream_of(run), self._clock.now()
        answer = Answer(
            run_id=run,
            stream_id=stream,
            outcome=reply.outcome,
            question=question.question,
            collection=question.collection,
            model=reply.model,
            text=reply.text,
            sources=[source.model_dump(mode="json") for source in found.sources],
            search_mode=found.mode,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cost=reply.cost,
            created_at=now,
        )
        await store.add(tx, by.tenant, answer)
        sources = [source.model_dump(mode="json", include=_CITED) for source in found.sources]
        facts = {"run": str(run), "model": reply.model, "cost": str(reply.cost), "sources": sources}
        action = f"agents.{reply.outcome}"
        await self._audit.record(tx, by, action, f"run:{run}", run=run, metadata=facts, payload={"text": reply.text})
        await self._events.emit(tx, action, facts, tenant=by.tenant)
        await self._end(tx, by, stream, "done" if reply.outcome == "answered" else "cancelled", facts)

    async def fail(self, tx: Tx, by: Principal, run: UUID, reason: str) -> None:
        """The run has failed for good: the readers of its stream learn it, and nobody waits any longer."""
        await self._end(tx, by, stream_of(run), "error", AnswerFailed(reason).problem())

    async def _end(self, tx: Tx, by: Principal, stream: UUID, type: Any, data: Mapping[str, Any]) -> None:
        standing = await self._streams.get(by, stream, tx=tx)
        if not standing.ended and standing.expires_at > self._clock.now():
            await self._streams.append(by, stream, [NewEvent.of(type, data)], tx=tx)
