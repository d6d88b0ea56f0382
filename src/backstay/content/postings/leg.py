"""The text leg of a search: BM25 by posting lists where there are any, else by looking at every chunk."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from ...kernel.db import Tx
from .. import bm25
from .. import store as content_store
from ..filters import Filter
from ..legs import Leg
from ..models import Found
from . import store
from .models import Layout

_SPARE = 14  # candidates beyond those asked for: some may be gone
_SIEVED = 200  # candidates that a filter is first held against
_MOST_CHECKED = 20_000  # candidates; a filter that lets fewer through is better looked at first
_MOST_WITHIN = 2_000  # the same where the caller's SQL gives ids, which the planner can begin with
_NEAR = 1 - 1e-5  # scores nearer than that are equal: weights are stored with six digits
_IN_LOOP = 100_000  # bytes of lists that are read without leaving the event loop
_ATTEMPTS = 3  # to read lists that a job replaces meanwhile


async def search(tx: Tx, tenant: UUID, collection: str, query: str, limit: int, where: Filter | None) -> list[Found]:
    """The best `limit` chunks by BM25, best first."""
    weights = await _weights(tx, tenant, collection, query)
    found = await _by_lists(tx, tenant, collection, weights, limit, where)
    if found is None:
        return await _every(tenant, collection, weights, limit, where).found(tx)
    return found


async def statement(tx: Tx, tenant: UUID, collection: str, query: str, limit: int, where: Filter | None) -> Leg:
    """The same as a statement to be joined with others. Lists are read now: it scores what they have found."""
    weights = await _weights(tx, tenant, collection, query)
    found = await _by_lists(tx, tenant, collection, weights, limit, where)
    if found is None:
        return _every(tenant, collection, weights, limit, where)
    return store.scored(tenant, bm25.literal(weights), [one.chunk_id for one in found])


async def _weights(tx: Tx, tenant: UUID, collection: str, query: str) -> dict[int, float]:
    wanted = bm25.wanted(query)
    totals = await content_store.totals(tx, tenant, collection, wanted)
    return bm25.query_weights(wanted, totals.frequencies, totals.chunks)


def _every(tenant: UUID, collection: str, weights: Mapping[int, float], limit: int, where: Filter | None) -> Leg:
    return content_store.text_leg(tenant, collection, bm25.literal(weights), limit, where)


async def _by_lists(
    tx: Tx, tenant: UUID, collection: str, weights: Mapping[int, float], limit: int, where: Filter | None
) -> list[Found] | None:
    """None: there are no lists, or looking at every chunk is better."""
    layout = await store.layout(tx, tenant, collection)
    for _ in range(_ATTEMPTS):
        if layout.strays or not layout.segments:
            return None
        if not weights:
            return []
        found = await _walk(tx, tenant, collection, layout, weights, limit, where)
        before, layout = layout, await store.layout(tx, tenant, collection)
        # Each statement sees what was committed before it. Segments never change, so the same ones are the same chunks.
        if layout.segments == before.segments and not layout.strays:
            return found
    return None


async def _walk(
    tx: Tx,
    tenant: UUID,
    collection: str,
    layout: Layout,
    weights: Mapping[int, float],
    limit: int,
    where: Filter | None,
) -> list[Found] | None:
    """Goes down the list of candidates, best first, until no later one can be better than what was found; None: that
    takes too long."""
    # Imported with the first list: small collections do without, and arrays take a while to load.
    from .lists import Board, size

    read = await store.lists(tx, tenant, layout.segments, weights)
    if len(read) < len(layout.segments):
        return []  # some were replaced just now: the layout will tell
    if size(read) > _IN_LOOP:
        board = await asyncio.to_thread(Board, read, weights, layout.pivot)
    else:
        board = Board(read, weights, layout.pivot)
    literal = bm25.literal(weights)
    first = limit + (_SPARE if where is None else _SIEVED)
    found: dict[UUID, Found] = {}
    best: list[Found] = []
    checked, loose = 0, True
    while loose or (board.best() > 0 and (len(best) < limit or best[-1].score < board.best() * _NEAR)):
        if checked > (_MOST_CHECKED if where is None or where.within is None else _MOST_WITHIN):
            return None
        places = board.take(max(first, 3 * checked))
        checked += len(places.places)
        more = await store.rank(tx, tenant, collection, literal, places, loose=loose, limit=limit, where=where)
        found |= {one.chunk_id: one for one in more if one.score > 0}
        best = sorted(found.values(), key=lambda one: (-one.score, one.chunk_id))[:limit]
        loose = False
    return best
