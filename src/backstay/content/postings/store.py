"""Rows in, models out: one function per query, no decisions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from uuid import UUID

from ...kernel import sql
from ...kernel.db import Tx
from ..filters import Filter
from ..legs import Leg
from ..models import Found
from .lengths import Lengths
from .models import Layout, Lists, Places, Posting, Segment, Written

_queries = sql.load(__package__)
_LENGTHS = 0  # the term that is none
_lengths = Lengths()


async def layout(tx: Tx, tenant: UUID, collection: str) -> Layout:
    return await _queries.layout.one(tx, Layout, tenant=tenant, collection=collection)


async def lists(tx: Tx, tenant: UUID, segments: Sequence[int], terms: Iterable[int]) -> list[Lists]:
    """What these segments have of these terms. Segments that were replaced meanwhile lack some, or are left out."""
    lengths = _lengths.of(tenant, segments)
    if unknown := [segment for segment in segments if segment not in lengths]:
        rows = await _queries.postings.binary_rows(tx, tenant=tenant, segments=unknown, terms=[_LENGTHS])
        fresh = {segment: counts for segment, _, _, counts in rows}
        _lengths.keep(tenant, fresh)
        lengths |= fresh
    found: defaultdict[int, dict[int, Posting]] = defaultdict(dict)
    rows = await _queries.postings.binary_rows(tx, tenant=tenant, segments=list(segments), terms=list(terms))
    for segment, term, places, counts in rows:
        found[segment][term] = Posting(places, counts)
    return [Lists(segment, lengths[segment], found[segment]) for segment in segments if segment in lengths]


async def rank(
    tx: Tx,
    tenant: UUID,
    collection: str,
    query: str,
    places: Places,
    *,
    loose: bool,
    limit: int,
    where: Filter | None,
) -> list[Found]:
    """Exact scores of the chunks at `places`, best first; with `loose`, of those in no listed segment
    too."""
    values = {
        "tenant": tenant,
        "collection": collection,
        "query": query,
        "segments": places.segments,
        "places": places.places,
        "loose": loose,
        "limit": limit,
    }
    if where is None:
        return await _queries.rank.all(tx, Found, **values)
    return await where.on(_queries.rank_where).all(tx, Found, **values, **where.parameters())


def scored(tenant: UUID, query: str, ids: Sequence[UUID]) -> Leg:
    """The statement that scores chunks which were found before."""
    return Leg(_queries.scored, {"tenant": tenant, "query": query, "ids": list(ids)})


async def take_building(tx: Tx, tenant: UUID, collection: str) -> bool:
    taken: bool = await _queries.take_building.value(tx, tenant=tenant, collection=collection)
    return taken


async def wait_building(tx: Tx, tenant: UUID, collection: str) -> None:
    await _queries.wait_building.run(tx, tenant=tenant, collection=collection)


async def standing(tx: Tx, tenant: UUID, collection: str) -> int:
    """Folded chunks of a collection; 0 when it is gone."""
    return await _queries.standing.value(tx, tenant=tenant, collection=collection) or 0


async def segments(tx: Tx, tenant: UUID, collection: str) -> list[Segment]:
    """Small ones first."""
    return await _queries.segments.all(tx, Segment, tenant=tenant, collection=collection)


async def ids(tx: Tx, tenant: UUID, segments: Sequence[int]) -> bytes:
    """The ids of the chunks in these segments, one after the other."""
    return b"".join(part for (part,) in await _queries.ids.binary_rows(tx, tenant=tenant, segments=list(segments)))


async def living(tx: Tx, tenant: UUID, collection: str) -> dict[int, int]:
    """Of how many chunks in each segment there still is a row."""
    return dict(await _queries.living.rows(tx, tenant=tenant, collection=collection))


async def weights(tx: Tx, tenant: UUID, ids: Sequence[UUID]) -> list[tuple[UUID, int, float, bytes]]:
    """Those of these chunks that are there, by id: id, length, the pivot of their weights, and the weights."""
    rows = await _queries.weights.binary_rows(tx, tenant=tenant, ids=list(ids))
    return [(id, length, pivot, vector) for id, length, pivot, vector in rows]


async def add_segment(tx: Tx, tenant: UUID, collection: str, ids: bytes, chunks: int, *, listed: bool) -> int:
    segment: int = await _queries.add_segment.value(
        tx, tenant=tenant, collection=collection, ids=ids, chunks=chunks, listed=listed
    )
    return segment


async def add_postings(tx: Tx, tenant: UUID, segment: int, written: Written) -> None:
    await _queries.add_postings.run(
        tx,
        tenant=tenant,
        segment=segment,
        terms=written.terms,
        places=written.places,
        places_at=_begins(written.place_sizes),
        sizes=written.place_sizes,
        counts=written.counts,
        counts_at=_begins(written.count_sizes),
        counted=written.count_sizes,
    )


def _begins(sizes: Sequence[int]) -> list[int]:
    """Where each piece begins, counted from 1."""
    return list(accumulate(sizes, initial=1))[:-1]


async def drop_segments(tx: Tx, tenant: UUID, segments: Sequence[int]) -> None:
    await _queries.drop_postings.run(tx, tenant=tenant, segments=list(segments))
    await _queries.drop_segments.run(tx, tenant=tenant, segments=list(segments))


async def strays(tx: Tx, tenant: UUID, collection: str) -> list[UUID]:
    """Chunks of a collection that no segment and no delta names."""
    return [id for (id,) in await _queries.strays.rows(tx, tenant=tenant, collection=collection)]


async def gathered(tx: Tx, tenant: UUID, collection: str) -> bool:
    """Whether the collection was not gathered before."""
    return await _queries.gathered.run(tx, tenant=tenant, collection=collection) == 1


async def ungathered(tx: Tx, limit: int) -> list[tuple[UUID, str]]:
    """Collections, of any tenant, whose chunks no fold has gathered."""
    return [(tenant, name) for tenant, name in await _queries.ungathered.rows(tx, limit=limit)]
