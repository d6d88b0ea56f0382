"""Rows in, models out: chunks that wait for vectors, the requests that carry them, and the pace of those."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import EmbedCall, Pace, Parked, Waiting

_queries = sql.load(__package__)


def _row(**columns: Any) -> dict[str, Any]:
    return columns


async def send_has_pending(tx: Tx, tenant: UUID, space: int) -> Callable[[], Awaitable[bool]]:
    """Within a pipeline; what is returned reads the answer after it."""
    read = await _queries.has_pending.send(tx, _row, tenant=tenant, space=space)

    async def answer() -> bool:
        return bool((await read())[0]["pending"])

    return answer


async def add_pending(tx: Tx, tenant: UUID, space: int, rows: Sequence[tuple[UUID, bytes, int]], now: datetime) -> None:
    """Rows of chunk id, text hash, estimated tokens."""
    await _queries.add_pending.run(
        tx,
        tenant=tenant,
        space=space,
        ids=[id for id, _, _ in rows],
        text_hashes=[text_hash for _, text_hash, _ in rows],
        tokens=[tokens for _, _, tokens in rows],
        now=now,
    )


async def waiting(tx: Tx, tenant: UUID, space: int, now: datetime, limit: int) -> list[tuple[UUID, bytes, int]]:
    """Chunks that no request carries, locked: id, text hash, estimated tokens."""
    rows = await _queries.waiting.rows(tx, tenant=tenant, space=space, now=now, limit=limit)
    return [(id, text_hash, tokens) for id, text_hash, tokens in rows]


async def texts(tx: Tx, tenant: UUID, ids: Sequence[UUID]) -> dict[UUID, tuple[list[str], str]]:
    """By chunk: heading and text."""
    rows = await _queries.texts.rows(tx, tenant=tenant, ids=list(ids))
    return {id: (heading, text) for id, heading, text in rows}


async def carry(tx: Tx, tenant: UUID, space: int, call: UUID, chunks: Sequence[UUID], expires_at: datetime) -> None:
    await _queries.carry.run(tx, tenant=tenant, space=space, call=call, chunks=list(chunks), expires_at=expires_at)


async def carried(tx: Tx, tenant: UUID, space: int, calls: Sequence[UUID]) -> list[UUID]:
    """The chunks of these requests, locked."""
    return [id for (id,) in await _queries.carried.rows(tx, tenant=tenant, space=space, calls=list(calls))]


async def free(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID]) -> None:
    await _queries.free.run(tx, tenant=tenant, space=space, chunks=list(chunks))


async def keep_chunks(tx: Tx, tenant: UUID, batch: Sequence[Waiting]) -> set[UUID]:
    rows = await _queries.keep_chunks.rows(
        tx,
        tenant=tenant,
        ids=[chunk.chunk_id for chunk in batch],
        text_hashes=[chunk.text_hash for chunk in batch],
    )
    return {id for (id,) in rows}


async def settle(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID]) -> list[str]:
    """The documents of chunks that wait no longer."""
    rows = await _queries.settle.rows(tx, tenant=tenant, space=space, chunks=list(chunks))
    return [document for (document,) in rows]


async def parked(tx: Tx, tenant: UUID, space: int, limit: int) -> list[UUID]:
    """Chunks that the embedder has refused, locked."""
    return [id for (id,) in await _queries.parked.rows(tx, tenant=tenant, space=space, limit=limit)]


async def park(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID], error: str) -> None:
    await _queries.park.run(tx, tenant=tenant, space=space, chunks=list(chunks), error=error)


async def parked_chunks(tx: Tx, tenant: UUID, space: int, after: UUID | None, limit: int) -> list[Parked]:
    return await _queries.parked_chunks.all(tx, Parked, tenant=tenant, space=space, after=after, limit=limit)


async def ask(tx: Tx, tenant: UUID, space: int, job: UUID, call: UUID, batch: Sequence[Waiting], now: datetime) -> None:
    await _queries.ask.run(
        tx,
        tenant=tenant,
        id=call,
        space=space,
        job=job,
        inputs=len(batch),
        tokens=sum(chunk.tokens for chunk in batch),
        now=now,
    )


async def paid(tx: Tx, tenant: UUID, call: UUID, tokens: int, cost: Decimal) -> datetime | None:
    """When the request was sent; None when it is not ours any more."""
    asked_at: datetime | None = await _queries.paid.value(tx, tenant=tenant, id=call, tokens=tokens, cost=cost)
    return asked_at


async def ended(
    tx: Tx,
    tenant: UUID,
    call: UUID,
    state: str,
    now: datetime,
    *,
    tokens: int | None = None,
    cost: Decimal | None = None,
    error: str | None = None,
) -> None:
    await _queries.ended.run(tx, tenant=tenant, id=call, state=state, tokens=tokens, cost=cost, error=error, now=now)


async def embed_calls(tx: Tx, tenant: UUID, space: int, after: UUID | None, limit: int) -> list[EmbedCall]:
    return await _queries.embed_calls.all(tx, EmbedCall, tenant=tenant, space=space, after=after, limit=limit)


async def disown(tx: Tx, tenant: UUID, job: UUID, now: datetime) -> list[UUID]:
    """Ends the requests that an earlier attempt of this job left behind, and answers which they were."""
    return [id for (id,) in await _queries.disown.rows(tx, tenant=tenant, job=job, now=now)]


async def neglected(tx: Tx, before: datetime, now: datetime) -> list[tuple[UUID, int, str]]:
    """Tenant, space and collection name of what nobody works on. Needs a system transaction."""
    rows = await _queries.neglected.rows(tx, before=before, now=now)
    return [(tenant, space, collection) for tenant, space, collection in rows]


async def backlog(tx: Tx, now: datetime) -> tuple[int, int, float]:
    """Of all tenants: chunks that wait, chunks that are parked, seconds the oldest has waited. Needs a system
    transaction."""
    ((waiting, parked, lag),) = await _queries.backlog.rows(tx, now=now)
    return int(waiting), int(parked), float(lag)


async def pace(tx: Tx, tenant: UUID, model: str) -> Pace | None:
    """How the embedder may be asked, locked; None when nothing is known against it."""
    return await _queries.pace.maybe(tx, Pace, tenant=tenant, embedder=model)


async def trouble(tx: Tx, tenant: UUID, model: str) -> Pace | None:
    """The same without the lock."""
    return await _queries.trouble.maybe(tx, Pace, tenant=tenant, embedder=model)


async def under_way(tx: Tx, tenant: UUID, model: str, since: datetime) -> int:
    return int(await _queries.under_way.value(tx, tenant=tenant, embedder=model, since=since))


async def rest(tx: Tx, tenant: UUID, model: str, until: datetime, failures: int, reason: str) -> None:
    await _queries.rest.run(tx, tenant=tenant, embedder=model, until=until, failures=failures, reason=reason)


async def recover(tx: Tx, tenant: UUID, model: str, asked_at: datetime) -> int | None:
    """How many requests may go at once now; None when the embedder is not in trouble, or rests again."""
    width: int | None = await _queries.recover.value(tx, tenant=tenant, embedder=model, asked_at=asked_at)
    return width


async def forget_trouble(tx: Tx, tenant: UUID, model: str) -> None:
    await _queries.forget_trouble.run(tx, tenant=tenant, embedder=model)


async def hurry(tx: Tx, tenant: UUID, model: str, now: datetime) -> None:
    await _queries.hurry.run(tx, tenant=tenant, embedder=model, now=now)
