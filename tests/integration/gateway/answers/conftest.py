"""The answer cache over each store that the kernel's cache has."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from answering import DevHash
from backstay.gateway.answers import Answers
from backstay.kernel.cache import Cache, Store
from backstay.kernel.cache_postgres import PostgresStore
from backstay.kernel.cache_redis import RedisStore
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from redis_server import RedisServer, redis_server

SLOW_MACHINE = 5.0  # seconds


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def postgres_store(db: Database, manual_clock: ManualClock) -> Store:
    return PostgresStore(db, manual_clock)


@pytest.fixture
async def redis_store(redis: RedisServer, redis_admin: Any) -> AsyncIterator[Store]:
    await redis_admin.flushall()
    store = RedisStore(redis.url, timeout=SLOW_MACHINE)
    yield store
    await store.close()


@pytest.fixture
async def redis_admin(redis: RedisServer) -> AsyncIterator[Any]:
    from redis.asyncio import Redis

    client = Redis.from_url(redis.url)
    yield client
    await client.aclose()


@pytest.fixture(params=["postgres", "redis"])
def cache(request: pytest.FixtureRequest, manual_clock: ManualClock) -> Cache:
    return Cache(request.getfixturevalue(f"{request.param}_store"), manual_clock, front_bytes=0)


@pytest.fixture
def postgres_cache(postgres_store: Store, manual_clock: ManualClock) -> Cache:
    return Cache(postgres_store, manual_clock, front_bytes=0)


@pytest.fixture
def answers(db: Database, manual_clock: ManualClock, vault: Vault, cache: Cache) -> Answers:
    return Answers(db, manual_clock, vault, cache)


@pytest.fixture
def on_postgres(db: Database, manual_clock: ManualClock, vault: Vault, postgres_cache: Cache) -> Answers:
    return Answers(db, manual_clock, vault, postgres_cache)


@pytest.fixture
def dev_hash() -> DevHash:
    return DevHash()
