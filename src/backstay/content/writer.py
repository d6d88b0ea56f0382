"""Writes the chunks of changed documents: what stays keeps its row and vector, the rest is replaced."""

import asyncio
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ParamSpec, TypeVar
from uuid import UUID

from ..kernel.db import Tx
from ..kernel.ids import new_id
from . import bm25, pipeline_store, store, vectors_store
from .chunker import Chunker, searched
from .models import ChunkRow, OldChunk, Standing

P = ParamSpec("P")
R = TypeVar("R")
_BYTES_A_TOKEN = 3  # a careful guess: English has 4 to 5, other scripts less
_IN_LOOP = 20_000  # characters that are cut and counted without leaving the event loop


@dataclass(frozen=True, slots=True)
class Fresh:
    """A chunk of the new text, not weighed yet."""

    ord: int
    heading: tuple[str, ...]
    text: str
    text_hash: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did to the chunks: how many vectors it needs, and the id of its statistics (None: unchanged)."""

    wanting: int
    delta: UUID | None


async def write(tx: Tx, tenant: UUID, standing: Standing, texts: Mapping[str, str], now: datetime) -> Written:
    """Makes the chunks of the documents `texts` what their text says. The documents' rows are locked already."""
    chunker, pivot = standing.definition.chunker, standing.pivot
    old: defaultdict[str, list[OldChunk]] = defaultdict(list)
    for chunk in await store.old_chunks(tx, tenant, standing.name, list(texts)):
        old[chunk.content_id].append(chunk)
    gone: list[OldChunk] = []
    moves: list[tuple[UUID, int]] = []
    wanted: list[tuple[str, Fresh]] = []
    for id, text in texts.items():
        fresh = await _apart(len(text), _cut, chunker, text)
        kept = _match(old[id], fresh)
        gone += [chunk for chunk in old[id] if chunk.id not in kept.values()]
        ords = {chunk.id: chunk.ord for chunk in old[id]}
        moves += [(chunk, place) for place, chunk in kept.items() if ords[chunk] != place]
        wanted += [(id, chunk) for chunk in fresh if chunk.ord not in kept]
    change = Counter[int]()
    size = sum(len(chunk.text) for _, chunk in wanted)
    rows = await _apart(size, _weigh, wanted, pivot, change)
    for chunk in gone:
        change.subtract(bm25.numbers(chunk.bm))
    if gone:
        await remove(tx, tenant, standing, gone)
    if moves:
        await store.move_chunks(tx, tenant, moves)
    if rows:
        await store.add_chunks(tx, tenant, standing.name, pivot, rows)
        pending = [(row.id, row.text_hash, row.tokens) for row in rows]
        for space in standing.embedded_in:
            await pipeline_store.add_pending(tx, tenant, space, pending, now)
    delta = await _count(tx, tenant, standing.name, rows, gone, change)
    return Written(len(rows) if standing.embedded_in else 0, delta)


async def erase(tx: Tx, tenant: UUID, standing: Standing, ids: Sequence[str]) -> UUID | None:
    """Removes the chunks of documents and takes them out of the statistics. Returns the id of those."""
    gone = await store.old_chunks(tx, tenant, standing.name, ids)
    change = Counter[int]()
    for chunk in gone:
        change.subtract(bm25.numbers(chunk.bm))
    await remove(tx, tenant, standing, gone)
    return await _count(tx, tenant, standing.name, [], gone, change)


async def remove(tx: Tx, tenant: UUID, standing: Standing, gone: Sequence[OldChunk]) -> None:
    """Deletes chunks and their vectors; what waits for them goes with them."""
    ids = [chunk.id for chunk in gone]
    await store.delete_chunks(tx, tenant, ids)
    for id in standing.embedded_in:
        # Asked again under the chunks' locks: the space's table may be younger than `standing`.
        space = await vectors_store.space(tx, id)
        if space is not None and space.dimensions is not None:
            await vectors_store.delete_vectors(tx, tenant, space.id, ids)


async def _count(
    tx: Tx,
    tenant: UUID,
    collection: str,
    rows: Sequence[ChunkRow],
    gone: Sequence[OldChunk],
    change: Counter[int],
) -> UUID | None:
    if not rows and not gone:
        return None
    delta = new_id()
    await store.add_delta(
        tx,
        tenant,
        collection,
        delta,
        chunks=len(rows) - len(gone),
        length=sum(row.length for row in rows) - sum(chunk.length for chunk in gone),
        terms={term: count for term, count in change.items() if count},
        added=[row.id for row in rows],
    )
    return delta


async def _apart(characters: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Runs `work`, in a thread when there is much to do, so that other requests go on."""
    if characters <= _IN_LOOP:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _cut(chunker: Chunker, text: str) -> list[Fresh]:
    fresh = []
    for place, piece in enumerate(chunker.cut(text)):
        whole = searched(piece.heading, piece.text).encode()
        tokens = max(1, math.ceil(len(whole) / _BYTES_A_TOKEN))
        fresh.append(Fresh(place, piece.heading, piece.text, hashlib.sha256(whole).digest(), tokens))
    return fresh


def _match(old: Sequence[OldChunk], fresh: Sequence[Fresh]) -> dict[int, UUID]:
    """The standing chunk that each place keeps. Of equal texts, each is kept once."""
    by_hash: defaultdict[bytes, list[UUID]] = defaultdict(list)
    for chunk in sorted(old, key=lambda chunk: chunk.ord, reverse=True):
        by_hash[chunk.text_hash].append(chunk.id)
    return {chunk.ord: by_hash[chunk.text_hash].pop() for chunk in fresh if by_hash.get(chunk.text_hash)}


def _weigh(wanted: Sequence[tuple[str, Fresh]], pivot: float, change: Counter[int]) -> list[ChunkRow]:
    """The rows of new chunks; adds their terms to `change`."""
    rows = []
    for content_id, chunk in wanted:
        bag = bm25.Bag.of(searched(chunk.heading, chunk.text))
        change.update(bag.counts.keys())
        rows.append(
            ChunkRow(
                id=new_id(),
                content_id=content_id,
                ord=chunk.ord,
                heading=chunk.heading,
                text=chunk.text,
                text_hash=chunk.text_hash,
                length=bag.length,
                tokens=chunk.tokens,
                bm=bag.weights(pivot),
            )
        )
    return rows
