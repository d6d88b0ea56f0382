"""Filters on bodies, as Postgres evaluates them, and what is refused before it is asked."""

from typing import Any

import pytest

from backstay.content import Collection, Content, vectors_store
from backstay.content.filters import MOST, Filter
from backstay.content.search import indexed_leg
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.kernel.halfvec import Halfvec
from backstay.kernel.principal import Principal

from .conftest import MODEL, settled

BODIES: dict[str, dict[str, Any]] = {
    "a": {"text": "pump", "price": 5, "lang": "en", "tags": ["new", "red"], "author": {"name": "Ada"}},
    "b": {"text": "pump", "price": 15, "lang": "de", "tags": [], "draft": True},
    "c": {"text": "pump", "price": "cheap", "lang": "fr", "note": None},
    "d": {"text": "pump", 'o"dd.$': 1, "$x": 1},
}
CASES: list[tuple[dict[str, Any], str]] = [
    ({"lang": "en"}, "a"),
    ({"lang": {"$eq": "de"}}, "b"),
    ({"lang": {"$ne": "en"}}, "bcd"),
    ({"price": {"$ne": 5}}, "bcd"),
    ({"price": {"$lt": 15}}, "a"),
    ({"price": {"$lte": 15}}, "ab"),
    ({"price": {"$gte": 5, "$lt": 15}}, "a"),
    ({"price": {"$gt": "b"}}, "c"),
    ({"lang": {"$in": ["de", "fr", 7]}}, "bc"),
    ({"tags": "red"}, ""),
    ({"tags": {"$eq": "red"}}, "a"),
    ({"tags": ["red"]}, "a"),
    ({"author.name": "Ada"}, "a"),
    ({"author": {"name": "Ada"}}, "a"),
    ({"author.name": {"$exists": True}}, "a"),
    ({"price": {"$exists": False}}, "d"),
    ({"note": {"$exists": True}}, "c"),
    ({"note": {"$eq": None}}, "c"),
    ({"draft": {"$eq": True}}, "b"),
    ({"$or": [{"lang": "en"}, {"price": {"$gt": 10}}]}, "ab"),
    ({"$and": [{"lang": {"$ne": "fr"}}, {"$or": [{"price": 5}, {"draft": True}]}]}, "ab"),
    ({"lang": "en", "price": {"$lt": 10}}, "a"),
    ({"lang": {"$eq": '" || true || "'}}, ""),
    ({'x" == 1 || exists($."lang") || $."y': {"$eq": 1}}, ""),
]


@pytest.fixture
async def shelf(content: Content, db: Database, jobs: Jobs, owner: Principal) -> Collection:
    shelf = content.collection("shelf", embedder=MODEL, fields=["text"])
    await shelf.put_many(list(BODIES.items()), by=owner)
    await settled(db, jobs, owner.tenant)
    return shelf


async def test_every_operator_means_the_same_to_text_and_vectors(shelf: Collection, owner: Principal) -> None:
    for where, wanted in CASES:
        for mode in ("text", "semantic"):
            answer = await shelf.search("pump", mode=mode, where=where, by=owner)  # type: ignore[arg-type]
            assert "".join(sorted(hit.id for hit in answer.hits)) == wanted, (where, mode)


async def test_a_filter_means_the_same_when_the_index_is_asked(
    shelf: Collection, content: Content, db: Database, owner: Principal
) -> None:
    async with db.tenant_tx(owner.tenant) as tx:
        space = (await content.find(owner, "shelf")).space
        assert space is not None
        query = Halfvec.of([1.0] * 64)
        assert query is not None
        for where, wanted in CASES:
            given = Filter.of(where)
            leg = indexed_leg(space, owner.tenant, query, 10, given)
            found = await leg.found(tx)
            assert "".join(sorted(hit.content_id for hit in found)) == wanted, where
            assert await vectors_store.count(tx, space.id, owner.tenant, 10, given) == len(wanted), where
            if given is not None:
                few = await vectors_store.search_few(tx, space.id, owner.tenant, query, 10, given, len(wanted))
                assert few is not None
                assert "".join(sorted(hit.content_id for hit in few)) == wanted, where
                if wanted:
                    most = len(wanted) - 1
                    assert await vectors_store.search_few(tx, space.id, owner.tenant, query, 10, given, most) is None


async def test_a_filter_shows_nothing_of_another_tenant(
    shelf: Collection, owner: Principal, other_owner: Principal
) -> None:
    await shelf.put("z", {"text": "pump", "lang": "en"}, by=other_owner)
    for where in ({"lang": {"$exists": True}}, {"$or": [{"lang": "en"}, {"lang": {"$ne": "en"}}]}):
        answer = await shelf.search("pump", mode="text", where=where, by=other_owner)
        assert [hit.id for hit in answer.hits] == ["z"]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"price": {"$near": 5}}, r"no operator '\$near'"),
        ({"price": {"$lt": 5, "gt": 1}}, "no operator 'gt'"),
        ({"$not": [{"a": 1}]}, r"'\$not' in a field's place"),
        ({"$or": []}, "takes a list"),
        ({"$or": [{}]}, "takes a list"),
        ({"$and": {"a": 1}}, "takes a list"),
        ({"a": {"$in": []}}, "not empty"),
        ({"a": {"$in": [[1]]}}, "texts, numbers"),
        ({"a": {"$lt": {"b": 1}}}, "texts, numbers"),
        ({"a": {"$exists": "yes"}}, "true or false"),
        ({"a": {"$in": list(range(MOST + 1))}}, f"more than {MOST}"),
        ({"a": {"$eq": "\0"}}, "no stored document"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    notes: Collection, owner: Principal, where: dict[str, Any], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        await notes.search("pump", where=where, by=owner)


async def test_a_filter_that_is_too_deep_is_refused(notes: Collection, owner: Principal) -> None:
    where: dict[str, Any] = {"a": {"$eq": 1}}
    for _ in range(20):
        where = {"$or": [where]}
    with pytest.raises(Invalid, match="deeper"):
        await notes.search("pump", where=where, by=owner)
