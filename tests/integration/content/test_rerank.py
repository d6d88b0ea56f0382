"""A reranker has the last word on the order, in bounded time; without it, the order stands that it would change."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import httpx
import pytest

from backstay.app import App
from backstay.audit import Audit
from backstay.content import Collection, Content, Hit
from backstay.events import Events
from backstay.gateway import ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import APP, Database
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal

from .conftest import Words, settled
from .test_search import fill, library


@pytest.fixture
async def filled(notes: Collection, db: Database, jobs: Jobs, tenant: UUID) -> Collection:
    await fill(notes, library(80), tenant)
    await settled(db, jobs, tenant)
    return notes


class Shortest:
    """Prefers short texts, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sequence[Hit]]] = []

    async def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        self.asked.append((query, hits))
        return [-len(hit.text) for hit in hits]


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_hits_stand_in_the_order_of_its_scores(filled: Collection, tenant: UUID, mode: Any) -> None:
    shortest = Shortest()
    plain = await filled.search("badat kefen", mode=mode, k=50, tenant=tenant)
    answer = await filled.search("badat kefen", mode=mode, k=5, rerank=shortest, tenant=tenant)
    assert shortest.asked == [("badat kefen", tuple(plain.hits))]  # the best 50, with k = 5
    wanted = sorted(plain.hits, key=lambda hit: len(hit.text))[:5]
    assert [hit.chunk for hit in answer.hits] == [hit.chunk for hit in wanted]
    for hit, before in zip(answer.hits, wanted, strict=True):
        assert (hit.score, hit.scores) == (-len(hit.text), before.scores | {"rerank": -len(hit.text)})
    assert (answer.mode, answer.flags) == (plain.mode, ())


async def late(query: str, hits: Sequence[Hit]) -> Sequence[float]:
    await asyncio.Event().wait()
    raise AssertionError("it waits for ever")


async def failing(query: str, hits: Sequence[Hit]) -> Sequence[float]:
    raise RuntimeError("no model")


async def forgetful(query: str, hits: Sequence[Hit]) -> Sequence[float]:
    return [1.0] * (len(hits) - 1)


async def confused(query: str, hits: Sequence[Hit]) -> Sequence[float]:
    return [float("nan")] * len(hits)


async def silent(query: str, hits: Sequence[Hit]) -> Sequence[float]:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize("broken", [late, failing, forgetful, confused, silent])
async def test_one_that_fails_or_is_late_leaves_the_order_and_says_so(
    content: Content, filled: Collection, tenant: UUID, broken: Any
) -> None:
    content.searcher.rerank_patience = 0.05
    plain = await filled.search("badat kefen", k=7, tenant=tenant)
    answer = await filled.search("badat kefen", k=7, rerank=broken, tenant=tenant)
    assert (answer.hits, answer.flags) == (plain.hits, ("not_reranked",))


async def test_no_connection_is_held_meanwhile(filled: Collection, db: Database, tenant: UUID) -> None:
    open_ones: list[int] = []

    async def looking(query: str, hits: Sequence[Hit]) -> Sequence[float]:
        async with db.system_tx() as tx:
            cursor = await tx.execute(
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and application_name = %s and state like 'idle in transaction%%'",
                [f"backstay/{APP}"],
            )
            open_ones.append((await cursor.fetchone())[0])  # type: ignore[index]
        return [0.0] * len(hits)

    assert (await filled.search("badat", rerank=looking, tenant=tenant)).flags == ()
    assert open_ones == [0]


async def test_short_counts_what_is_shown_and_nobody_is_asked_about_nothing(filled: Collection, tenant: UUID) -> None:
    shortest = Shortest()
    few = await filled.search("badat", where={"text": "none"}, k=5, rerank=shortest, tenant=tenant)
    assert (few.hits, few.flags, shortest.asked) == ([], ("short",), [])
    enough = await filled.search("badat", mode="text", k=2, rerank=shortest, tenant=tenant)
    assert (len(enough.hits), enough.flags) == (2, ())


async def test_a_collection_has_its_own_and_a_search_may_do_without(
    content: Content, tenant: UUID, other_tenant: UUID
) -> None:
    shortest = Shortest()
    ranked = content.collection("ranked", embedder=None, rerank=shortest)
    for owner, name in ((tenant, "mine"), (other_tenant, "theirs")):
        await ranked.put(f"{name} long", {"text": f"badat badat {name} and more words"}, tenant=owner)
        await ranked.put(f"{name} short", {"text": f"badat {name}"}, tenant=owner)
    assert (await ranked.search("badat", tenant=tenant)).hits[0].id == "mine short"
    assert {hit.id for _, hits in shortest.asked for hit in hits} == {"mine long", "mine short"}
    plain = await ranked.search("badat", rerank=False, tenant=tenant)
    assert all("rerank" not in hit.scores for hit in plain.hits)
    assert len(shortest.asked) == 1


def test_a_function_that_would_block_is_refused(content: Content) -> None:
    def blocking(query: str, hits: Sequence[Hit]) -> list[float]:
        return [0.0] * len(hits)

    with pytest.raises(ConfigurationError, match="async def"):
        content.collection("blocked", rerank=blocking)  # type: ignore[arg-type]


class Judge:
    """A chat model that gives these scores, or fails."""

    def __init__(self, content: str | Exception) -> None:
        self.content, self.requests = content, list[Mapping[str, Any]]()

    async def complete(
        self, by: Principal, request: Mapping[str, Any], *, feature: str, internal: bool = False
    ) -> Mapping[str, Any]:
        self.requests.append(request)
        if isinstance(self.content, Exception):
            raise self.content
        return {"choices": [{"message": {"content": self.content}}]}


@pytest.mark.parametrize(
    ("said", "first", "flags"),
    [
        ('{"scores": [1, 9]}', "b", ()),
        ('{"scores": [9, 1]}', "a", ()),
        ('{"scores": [9]}', "a", ("not_reranked",)),
        ("I would rather not.", "a", ("not_reranked",)),
        ("[]", "a", ("not_reranked",)),
        (ProviderUnreachable("nobody is there"), "a", ("not_reranked",)),
    ],
)
async def test_a_model_scores_the_passages_it_is_shown(
    db: Database,
    clock: SystemClock,
    jobs: Jobs,
    vault: Vault,
    words: Words,
    tenant: UUID,
    said: Any,
    first: str,
    flags: tuple[str, ...],
) -> None:
    judge = Judge(said)
    content = Content(db, clock, jobs, words, Audit(db, clock, vault), Events(db, clock), completer=judge)
    pages = content.collection("pages", embedder=None)
    await fill(pages, {"a": "badat badat ship", "b": "badat boat and other words"}, tenant)
    answer = await pages.search("badat", k=2, rerank="judge:one", tenant=tenant)
    assert (answer.hits[0].id, answer.flags) == (first, flags)
    (request,) = judge.requests
    assert request["model"] == "judge:one"
    passages = request["messages"][1]["content"]
    assert passages.startswith("Query: badat\n")
    assert "[1] badat badat ship" in passages
    assert "[2] badat boat" in passages


async def test_over_http_a_model_of_the_gateway_is_asked(app: App, client: httpx.AsyncClient) -> None:
    await client.put("/api/collections/papers", json={"embedder": None})
    for id, text in (("a", "a ship ship"), ("b", "a ship and a harbour")):
        await client.put(f"/api/collections/papers/documents/{id}", json={"text": text})
    query = {"query": "ship", "k": 2, "rerank": "sim:echo"}
    answer = (await client.post("/api/collections/papers/search", json=query)).json()
    assert answer["flags"] == ["not_reranked"]  # an echo is no score
    assert [hit["id"] for hit in answer["hits"]] == ["a", "b"]
    calls = (await client.get("/api/gateway/calls")).json()["items"]
    assert [(call["feature"], call["model"]) for call in calls] == [("content.rerank", "echo")]
    plain = await client.post("/api/collections/papers/search", json=query | {"rerank": False})
    assert plain.json()["flags"] == []
