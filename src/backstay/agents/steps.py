"""The steps of a run that answers a question: search, model, store."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, cast
from uuid import UUID

from ..audit import Audit
from ..content import Content
from ..events import Events
from ..gateway import Gateway, GatewayError, ProviderFailed, ProviderRefused, RateLimited
from ..jobs import Discard, Snooze
from ..kernel.clock import Clock
from ..kernel.db import Tx
from ..kernel.principal import Principal
from ..streams import NewEvent, StreamEnded, StreamExpired, Streams, StreamWriter
from . import store
from .models import FEATURE, Answer, AnswerFailed, Found, Question, Reply, Source, stream_of
from .prompt import request

_CITED = {"number", "document", "heading"}
_USAGE = {"input_tokens", "output_tokens", "cost"}


class Steps:
    """What the run does in each step. Each may be begun again after a crash."""

    def __init__(
        self, clock: Clock, content: Content, gateway: Gateway, streams: Streams, audit: Audit, events: Events
    ) -> None:
        self._clock, self._content, self._gateway = clock, content, gateway
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
        """The model's answer, written to the run's stream while it comes.

        A stream that was cancelled stops the model call. One that has ended or expired otherwise does not: the run
        answers all the same, and the answer can be fetched.
        """
        try:
            return await self._reply(by, run, question, found, idempotency_key)
        except GatewayError as error:
            if _hopeless(error):
                raise Discard(f"{error.title}: {error.detail}") from error
            if isinstance(error, RateLimited):
                raise Snooze(timedelta(seconds=int(error.headers["retry-after"])), error.detail) from error
            raise

    async def _reply(self, by: Principal, run: UUID, question: Question, found: Found, key: str) -> Reply:
        stream, draft = stream_of(run), _Draft(question.model)
        try:
            async with self._streams.writer(by.tenant, stream) as out:
                if out.resumed and await self._streams.contains(by.tenant, stream, "message.start"):
                    await out.write("status", {"state": "restarted", "restarted": True, "producer": out.epoch})
                await out.write("message.start", {"model": question.model, "run": str(run), "producer": out.epoch})
                whole = await _until_cancelled(out, self._fill(draft, by, run, question, found, key, out))
                reply = draft.reply("answered" if whole else "cancelled", await self._cost(by, run))
                await out.write("usage", reply.model_dump(mode="json", include=_USAGE))
                return reply
        except (StreamEnded, StreamExpired):
            if (await self._streams.get(by, stream)).state == "cancelled":
                return draft.reply("cancelled", await self._cost(by, run))
        draft = _Draft(question.model)
        await self._fill(draft, by, run, question, found, key, None)
        return draft.reply("answered", await self._cost(by, run))

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

    async def _fill(
        self,
        draft: "_Draft",
        by: Principal,
        run: UUID,
        question: Question,
        found: Found,
        key: str,
        out: StreamWriter | None,
    ) -> None:
        """Calls the model and puts what it says into the draft and, when there is one, the stream."""
        chat = request(question, found.sources)
        chunks = self._gateway.stream(by, chat, feature=by.feature or FEATURE, run=run, idempotency=key, internal=True)
        async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", chunks)):
            async for chunk in chunks:
                draft.model = _qualified(chunk.get("model"), question.model)
                delta = _delta(chunk)
                if out and (reasoning := delta.get("reasoning_content") or delta.get("reasoning")):
                    await out.write("reasoning.delta", {"text": _clean(reasoning)})
                if piece := delta.get("content"):
                    draft.pieces.append(_clean(piece))
                    if out:
                        await out.write("text.delta", {"text": draft.pieces[-1]})
                if usage := chunk.get("usage"):
                    draft.input_tokens = int(usage.get("prompt_tokens") or 0)
                    draft.output_tokens = int(usage.get("completion_tokens") or 0)

    async def _cost(self, by: Principal, run: UUID) -> Decimal:
        """What the run's newest model call cost; it has been settled when its stream is over."""
        reader = Principal.system(by.tenant, "agents")
        calls = await self._gateway.calls(reader, run=run, limit=1)
        return calls[0].cost if calls else Decimal(0)


@dataclass(slots=True)
class _Draft:
    """What the model has said so far."""

    model: str
    pieces: list[str] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    def reply(self, outcome: Literal["answered", "cancelled"], cost: Decimal) -> Reply:
        return Reply(
            outcome=outcome,
            model=self.model,
            text="".join(self.pieces),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost=cost,
        )


async def _until_cancelled(out: StreamWriter, work: Coroutine[Any, Any, None]) -> bool:
    """Does the work unless somebody asks the stream to stop; returns whether the work was done."""
    if out.cancel_requested:
        work.close()
        return False
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(out.wait_cancelled())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        stopping.cancel()
        working.cancel()  # the gateway then cancels the provider's work and bills what was used
        await asyncio.gather(stopping, working, return_exceptions=True)


def _hopeless(error: GatewayError) -> bool:
    """Whether the same call again would get the same answer."""
    if isinstance(error, ProviderRefused):
        return error.status not in (408, 409, 429)
    if isinstance(error, RateLimited):
        return error.headers["x-should-retry"] != "true"  # who asked does not wait for hours
    return not isinstance(error, ProviderFailed)


def _delta(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta") or {}


def _qualified(answered: Any, asked: str) -> str:
    """The model as `provider:model`; who answered is the provider's word, which provider it was is ours."""
    if not isinstance(answered, str) or not answered:
        return asked
    return answered if answered.startswith("sim:") else f"{asked.partition(':')[0]}:{answered}"


def _clean(text: str) -> str:
    """NUL is legal in JSON and in no text of Postgres."""
    return text.replace("\x00", "\ufffd")
