"""Puts chunks into segments and makes their lists: the background half of posting lists."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from ...kernel.db import Database, Tx
from . import store
from .models import ID_BYTES, Segment

MOST = 65_536  # chunks in a segment: a place fits two bytes
LEAST = 1_000  # fewer are looked at one by one
_DEAD = 1 / 3  # of all chunks in listed segments may be gone before a segment is made anew


class Builder:
    """One at a time for each collection. `least` is how many chunks are worth a list."""

    def __init__(self, db: Database, *, least: int = LEAST, most: int = MOST) -> None:
        self._db = db
        self.least, self.most = least, most

    async def gather(self, tx: Tx, tenant: UUID, collection: str, added: Sequence[UUID], *, said: bool) -> None:
        """Chunks that deltas named, in the transaction that takes those. Not `said`: one did not name its own."""
        if await store.gathered(tx, tenant, collection) or not said:
            added = sorted({*added, *await store.strays(tx, tenant, collection)})
        if added:
            ids = b"".join(id.bytes for id in added)
            await store.add_segment(tx, tenant, collection, ids, len(added), listed=False)

    async def ungathered(self, tx: Tx, limit: int) -> list[tuple[UUID, str]]:
        """Collections, of any tenant, with chunks that nothing may name."""
        return await store.ungathered(tx, limit)

    async def build(self, tenant: UUID, collection: str) -> None:
        """Makes lists until few chunks are without. Returns at once when another process is at it."""
        while await self._build_some(tenant, collection):
            pass

    async def forget(self, tenant: UUID, collection: str) -> None:
        """Makes every segment anew that names a chunk which is gone, so that nothing is left of it."""
        async with self._db.tenant_tx(tenant) as tx:
            living = await store.living(tx, tenant, collection)
            dead = [s for s in await store.segments(tx, tenant, collection) if living.get(s.id, 0) < s.chunks]
        for segment in dead:
            async with self._db.tenant_tx(tenant) as tx:
                await store.wait_building(tx, tenant, collection)
                if segment in await store.segments(tx, tenant, collection):
                    await self._replace(tx, tenant, collection, [segment])

    async def _build_some(self, tenant: UUID, collection: str) -> bool:
        async with self._db.tenant_tx(tenant) as tx:
            if not await store.take_building(tx, tenant, collection):
                return False
            segments = await store.segments(tx, tenant, collection)
            chosen = self._due(segments) or await self._worn(tx, tenant, collection, segments)
            if chosen:
                await self._replace(tx, tenant, collection, chosen)
            return bool(chosen)

    def _due(self, segments: Sequence[Segment]) -> list[Segment]:
        """Loose segments, once they have enough chunks together, and the listed ones that are no larger than what they
        join: so each chunk is listed anew as often as its segment doubles."""
        chosen = [segment for segment in segments if not segment.listed]
        size = sum(segment.chunks for segment in chosen)
        if size < self.least:
            return []
        for segment in segments:
            if segment.listed and segment.chunks <= size and size + segment.chunks <= self.most:
                chosen.append(segment)
                size += segment.chunks
        return chosen

    async def _worn(self, tx: Tx, tenant: UUID, collection: str, segments: Sequence[Segment]) -> list[Segment]:
        """The listed segment that most chunks have gone from, once many have."""
        named = sum(segment.chunks for segment in segments)
        gone = named - await store.standing(tx, tenant, collection)
        if gone < max(self.least, named * _DEAD):
            return []
        living = await store.living(tx, tenant, collection)
        listed = [segment for segment in segments if segment.listed and living[segment.id] < segment.chunks]
        return sorted(listed, key=lambda segment: segment.chunks - living[segment.id])[-1:]

    async def _replace(self, tx: Tx, tenant: UUID, collection: str, old: Sequence[Segment]) -> None:
        """One segment instead of several. What is beyond its size stays loose."""
        ids = await store.ids(tx, tenant, [segment.id for segment in old])
        await store.drop_segments(tx, tenant, [segment.id for segment in old])
        cut = self.most * ID_BYTES
        if rest := ids[cut:]:
            await store.add_segment(tx, tenant, collection, rest, len(rest) // ID_BYTES, listed=False)
        rows = await store.weights(tx, tenant, [UUID(bytes=ids[at : at + 16]) for at in range(0, len(ids[:cut]), 16)])
        if not rows:
            return
        living = b"".join(id.bytes for id, _, _, _ in rows)
        listed = len(rows) >= self.least
        segment = await store.add_segment(tx, tenant, collection, living, len(rows), listed=listed)
        if listed:
            # Imported with the first list: small collections do without, and arrays take a while to load.
            from . import lists

            _, lengths, pivots, vectors = zip(*rows, strict=True)
            # In a thread, so that the worker's heartbeat goes on.
            await store.add_postings(
                tx, tenant, segment, await asyncio.to_thread(lists.write, lengths, pivots, vectors)
            )
