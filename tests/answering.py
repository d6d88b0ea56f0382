"""Requests to the answer cache as the pipeline makes them, and an embedder that the tests can watch."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from backstay.gateway.answers import Answers, CachePolicy, Embedder, Hit, Question, Surface
from backstay.gateway.dialogue import Stop
from backstay.gateway.sim.embedding import embed
from backstay.kernel.db import Database

ALICE, BOB = uuid4(), uuid4()
PLANTED = b'{"choices": [{"message": {"content": "planted-answer-4711"}}]}'
HOUR = CachePolicy(ttl=3600)
NEAR = CachePolicy(ttl=3600, semantic=0.9)


def question(words: str = "How do I reset my planted-password?", **changes: Any) -> Question:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": words}]
    return Question(Surface.CHAT, "smart", {"messages": messages, "temperature": 0.5, **changes})


class DevHash:
    """The hashing embedder of `sim`, which counts what it is asked and can fail or hang."""

    def __init__(self, dimensions: int = 64, model: str = "sim:dev-hash") -> None:
        self.asked: list[str] = []
        self.dimensions = dimensions
        self.error: Exception | None = None
        self.embedder = Embedder(model, self._embed)

    async def _embed(self, text: str) -> Sequence[float]:
        self.asked.append(text)
        if self.error is not None:
            raise self.error
        return embed(text, self.dimensions)


async def keep(
    answers: Answers,
    asked: Question,
    body: bytes = PLANTED,
    *,
    tenant: UUID = ALICE,
    policy: CachePolicy = HOUR,
    embedder: Embedder | None = None,
    stops: Sequence[Stop | None] = (Stop.END,),
    tools: bool = False,
) -> bool:
    """One request whose answer is asked for."""
    async with answers.flight(tenant, asked, policy, embedder) as flight:
        assert await flight.find() is None
        return await flight.keep(body, by="sim:echo", stops=stops, tools=tools)


async def find(
    answers: Answers,
    asked: Question,
    *,
    tenant: UUID = ALICE,
    policy: CachePolicy = HOUR,
    embedder: Embedder | None = None,
) -> Hit | None:
    async with answers.flight(tenant, asked, policy, embedder) as flight:
        return await flight.find()


async def rows(db: Database, query: str) -> list[tuple[Any, ...]]:
    async with db.system_tx() as tx:
        return await (await tx.execute(query)).fetchall()
