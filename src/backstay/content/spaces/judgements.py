"""Judgements: which documents a query should find, said by people; and how well the vectors of a space find them."""

from collections.abc import Mapping, Sequence
from math import log2
from uuid import UUID

from ...audit import Audit
from ...kernel.db import Database
from ...kernel.errors import Invalid
from ...kernel.halfvec import Halfvec
from ...kernel.principal import Principal
from .. import store as content_store
from ..delivery import Embedder
from ..models import FEATURE_SEARCH, CollectionNotFound, Space
from ..search import CANDIDATES, Searcher
from . import store
from .models import Judgement

MOST = 1_000
_BATCH = 100
_K = 10


class Judgements:
    """A collection's judgements, and what they say of a space."""

    def __init__(self, db: Database, audit: Audit, gateway: Embedder, searcher: Searcher) -> None:
        self._db, self._audit, self._gateway, self._searcher = db, audit, gateway, searcher

    async def put(self, by: Principal, name: str, judgements: Sequence[Judgement]) -> None:
        """Replaces the judgements of a collection.

        Raises:
            CollectionNotFound (404). Invalid: over 1,000, a query stands twice, or one cannot be stored (422).
        """
        _check(judgements)
        async with self._db.tenant_tx(by.tenant) as tx:
            if await content_store.collection(tx, by.tenant, name) is None:
                raise CollectionNotFound(f"there is no collection {name!r}")
            await store.put_judgements(tx, by.tenant, name, judgements)
            about = {"queries": len(judgements)}
            await self._audit.record(tx, by, "content.judgements", f"content:{name}", metadata=about)

    async def stated(self, by: Principal, name: str) -> list[Judgement]:
        """The judgements of a collection, by query.

        Raises:
            CollectionNotFound: there is no such collection (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            if await content_store.collection(tx, by.tenant, name) is None:
                raise CollectionNotFound(f"there is no collection {name!r}")
            return await store.judgements(tx, by.tenant, name)

    async def ndcg(self, by: Principal, space: Space, judgements: Sequence[Judgement]) -> float:
        """The mean nDCG@10 of searches by the vectors of a space, from 0 to 1. Its model embeds the queries."""
        scores: list[float] = []
        for at in range(0, len(judgements), _BATCH):
            batch = judgements[at : at + _BATCH]
            texts = [judgement.query for judgement in batch]
            answer = await self._gateway.embed(by, space.model, texts, feature=FEATURE_SEARCH, internal=True)
            for judgement, numbers in zip(batch, answer.vectors, strict=True):
                vector = Halfvec.of(numbers)
                found = [] if vector is None else await self._documents(by.tenant, space, vector)
                scores.append(gain(found, judgement.relevant))
        return sum(scores) / len(scores)

    async def _documents(self, tenant: UUID, space: Space, vector: Halfvec) -> Sequence[str]:
        async with self._db.tenant_tx(tenant) as tx:
            near = await self._searcher.nearest(tx, tenant, space, vector, CANDIDATES, None)
        return list(dict.fromkeys(hit.content_id for hit in near.found))


def gain(found: Sequence[str], relevant: Mapping[str, int]) -> float:
    """nDCG@10 of documents in the order in which they were found."""
    best = _discounted(sorted(relevant.values(), reverse=True))
    return _discounted([relevant.get(id, 0) for id in found]) / best


def _discounted(grades: Sequence[int]) -> float:
    return sum((2.0**grade - 1) / log2(place + 1) for place, grade in enumerate(grades[:_K], start=1))


def _check(judgements: Sequence[Judgement]) -> None:
    if len(judgements) > MOST:
        raise Invalid(f"a collection has at most {MOST} judged queries, not {len(judgements)}")
    queries = {judgement.query for judgement in judgements}
    if len(queries) != len(judgements):
        raise Invalid("a query stands twice among the judgements")
    for judgement in judgements:
        texts = [judgement.query, *judgement.relevant]
        if not all(text.strip() and len(text) <= 500 and "\0" not in text for text in texts):
            raise Invalid("a judged query, and the id of a document, has 1 to 500 characters, none of them NUL")
        if not judgement.relevant or not all(1 <= grade <= 10 for grade in judgement.relevant.values()):
            raise Invalid(f"{judgement.query!r} names no document, or one with a grade that is not from 1 to 10")
