import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from backstay.audit import Audit
from backstay.auth import Auth
from backstay.content import Collection, Content
from backstay.content.attached import Attached, AttachedStatus, TableDefinition
from backstay.events import Events
from backstay.gateway import Embeddings
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

MODEL = "test:words"


def vector(text: str, dimensions: int = 64) -> list[float]:
    """Words hashed into a unit vector: texts that share words are near."""
    values = [0.0] * dimensions
    for word in text.lower().split():
        place = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
        values[place % dimensions] += 1.0
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values] if any(values) else [1.0] + [0.0] * (dimensions - 1)


class Words:
    """An embedder that counts what it is asked, waits at `gate` if that is closed, and fails as `fault` says."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.models: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.dimensions = 64
        self.sizes: dict[str, int] = {}  # of other models
        self.vector = vector
        self.fault: Callable[[Sequence[str]], Exception | None] = lambda _: None

    async def embed(
        self,
        by: Principal,
        model: str,
        inputs: Sequence[str],
        *,
        feature: str,
        idempotency: str | None = None,
        internal: bool = False,
        retries: int | None = None,
    ) -> Embeddings:
        self.calls.append(list(inputs))
        self.models.append(model)
        self.asked.set()
        await self.gate.wait()
        if error := self.fault(inputs):
            raise error
        return Embeddings(
            [self.vector(text, self.sizes.get(model, self.dimensions)) for text in inputs],
            input_tokens=sum(len(text.split()) for text in inputs),
            cost=Decimal("0.001"),
            model=model,
        )

    async def embedding_cost(self, by: Principal, model: str, tokens: int, requests: int) -> Decimal:
        return Decimal("0.01") * requests

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call]


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def jobs(db: Database, clock: SystemClock, settings: Settings) -> Jobs:
    return Jobs(db, clock, settings)


@pytest.fixture
def content(db: Database, clock: SystemClock, jobs: Jobs, vault: Vault, words: Words) -> Content:
    return Content(db, clock, jobs, words, Audit(db, clock, vault), Events(db, clock))


@pytest.fixture
def notes(content: Content) -> Collection:
    """A collection whose documents are small: one text, one chunk."""
    return content.collection("notes", embedder=MODEL)


@asynccontextmanager
async def working(jobs: Jobs, concurrency: int = 4) -> AsyncIterator[None]:
    """A worker for as long as the block lasts."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(jobs.worker(concurrency=concurrency, lease=timedelta(seconds=15)).run(stop))
        try:
            yield
        finally:
            stop.set()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Waits for a condition, and fails when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 -- the database does not tell
            await asyncio.sleep(0.01)


async def settled(db: Database, jobs: Jobs, *tenants: UUID) -> None:
    """Works until no job of these tenants is left."""
    async with working(jobs):
        await idle(db, *tenants)


async def idle(db: Database, *tenants: UUID) -> None:
    """Waits until no job of these tenants is left; someone else works."""
    for tenant in tenants:

        async def none_left(tenant: UUID = tenant) -> bool:
            return not await rows(db, tenant, "select 1 from backstay.job")

        await until(none_left)


async def rows(db: Database, tenant: UUID, query: str, *params: object) -> list[tuple[object, ...]]:
    async with db.tenant_tx(tenant) as tx:
        return await (await tx.execute(query, params)).fetchall()  # type: ignore[no-any-return]


# -- attached tables ---------------------------------------------------------------------------------------------

Connection = psycopg.Connection[Any]
Settle = Callable[..., Awaitable[AttachedStatus]]
PRODUCTS = TableDefinition(
    table="public.products", key="id", text="title || E'\\n' || description", columns=("price",), embedder=MODEL
)


@pytest.fixture
def plain(database_url: str) -> Iterator[Connection]:
    """A connection that knows nothing of us, as psql has it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "create table products (id bigint primary key, title text not null, description text, price numeric)"
        )
        yield connection


@pytest.fixture
def attached(db: Database, clock: SystemClock, jobs: Jobs, vault: Vault, auth: Auth, content: Content) -> Attached:
    audit, events = Audit(db, clock, vault), Events(db, clock)
    return Attached(db, clock, jobs, audit, events, auth, content)


@pytest.fixture
async def operator(auth: Auth) -> Principal:
    return await auth.operator()


@pytest.fixture
def settle(attached: Attached, operator: Principal, jobs: Jobs) -> Settle:
    """Works until everything that is committed now is taken over."""

    async def work(name: str = "products") -> AttachedStatus:
        async def done() -> bool:
            await attached.tending.spread()
            return (await attached.status(operator, name)).current

        async with working(jobs):
            await until(done)
            return await attached.status(operator, name)

    return work


async def texts(db: Database, tenant: UUID, collection: str = "products") -> dict[str, str]:
    """The first chunk of each document."""
    query = "select content_id, text from backstay.chunk where collection = %s and ord = 0"
    return {str(id): str(text) for id, text in await rows(db, tenant, query, collection)}
