"""Redis vanishes, freezes, fills up and comes back: the cache misses meanwhile, nothing waits, nothing is mixed up."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from backstay.kernel.cache import Cache
from backstay.kernel.cache_redis import _CONNECTIONS, RedisStore
from backstay.kernel.clock import SystemClock
from redis_server import RedisServer, needs_redis, redis_server

pytestmark = needs_redis
ALICE = uuid4()
HANGS = 20  # seconds, on a machine whose cores are busy; no call waits for more than a fraction of one


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def store(redis: RedisServer) -> RedisStore:
    """With the timeouts that everybody gets."""
    return RedisStore(redis.url)


@pytest.fixture
async def cache(store: RedisStore) -> AsyncIterator[Cache]:
    """Without a front."""
    made = Cache(store, SystemClock(), front_bytes=0)
    yield made
    await made.close()


@pytest.fixture
def tries(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were sent, or would have been, had Redis been there."""
    made: list[str] = []
    execute = store._redis.execute_command

    def counted(*command: Any, **options: Any) -> Any:
        made.append(command[0])
        return execute(*command, **options)

    monkeypatch.setattr(store._redis, "execute_command", counted)
    return made


@pytest.fixture
async def admin(redis: RedisServer) -> AsyncIterator[Any]:
    from redis.asyncio import Redis

    client = Redis.from_url(redis.url)
    yield client
    await client.aclose()


async def until(check: Callable[[], Awaitable[Any]]) -> Any:
    """What `check` gives, as soon as it gives something."""
    async with asyncio.timeout(30):
        while not (found := await check()):  # noqa: ASYNC110 -- a process of its own comes back: nothing to wait for
            await asyncio.sleep(0.02)
    return found


async def answers(cache: Cache, value: bytes = b"value") -> None:
    await until(lambda: cache.set(ALICE, "k", value, 600))


def every_call(cache: Cache) -> list[Awaitable[Any]]:
    return [
        cache.get(ALICE, "k"),
        cache.set(ALICE, "other", b"value", 60),
        cache.delete(ALICE, "other"),
        cache.incr(ALICE, "n", ttl=60),
    ]


class TestAway:
    @pytest.mark.parametrize("how", ["kill", "freeze"])
    async def test_every_call_is_a_miss_and_only_those_on_the_way_wait_for_it(
        self, cache: Cache, redis: RedisServer, tries: list[str], how: str
    ) -> None:
        await answers(cache)
        tries.clear()
        getattr(redis, how)()
        async with asyncio.timeout(HANGS):
            ends = await asyncio.gather(*(call for _ in range(50) for call in every_call(cache)))
            ends += [await call for call in every_call(cache)]
        assert ends == [None, False, False, None] * 51
        assert len(tries) <= 2 * _CONNECTIONS

    async def test_killed_in_the_middle_of_many_calls_it_fails_none_of_them(
        self, cache: Cache, redis: RedisServer
    ) -> None:
        await answers(cache)
        seen: list[bytes | None] = []
        killed = asyncio.Event()

        async def reader() -> None:
            while not killed.is_set():
                seen.append(await cache.get(ALICE, "k"))
                await asyncio.sleep(0)
            for _ in range(20):
                seen.append(await cache.get(ALICE, "k"))
                await asyncio.sleep(0)

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(reader())
            await until(lambda: _true(len(seen) > 500))
            redis.kill()
            killed.set()
        assert set(seen) == {b"value", None}
        assert set(seen[-1000:]) == {None}

    async def test_frozen_it_costs_one_wait_and_not_one_for_each_call(
        self, cache: Cache, redis: RedisServer, tries: list[str]
    ) -> None:
        await answers(cache)
        tries.clear()
        redis.freeze()
        async with asyncio.timeout(HANGS):
            for _ in range(1000):
                assert await cache.get(ALICE, "k") is None
        assert 1 <= len(tries) <= 20

    @pytest.mark.parametrize("how", ["kill", "freeze"])
    async def test_it_comes_back_by_itself(self, cache: Cache, redis: RedisServer, how: str) -> None:
        await answers(cache)
        await cache.incr(ALICE, "n", ttl=60)
        getattr(redis, how)()
        await until(lambda: _true_of(cache.get(ALICE, "k"), None))
        redis.thaw() if how == "freeze" else redis.start()
        await answers(cache, b"again")
        assert await until(lambda: cache.get(ALICE, "k")) == b"again"
        # The new server does not know the script of counting yet.
        assert await until(lambda: cache.incr(ALICE, "m", 5, ttl=60)) == 5

    async def test_it_may_be_away_from_the_beginning(self, redis: RedisServer) -> None:
        redis.kill()
        cache = Cache(RedisStore(redis.url), SystemClock(), front_bytes=0)
        assert await cache.get(ALICE, "k") is None
        redis.start()
        await answers(cache)
        await cache.close()

    async def test_it_is_said_once_that_it_went_and_once_that_it_came_back(
        self, cache: Cache, redis: RedisServer
    ) -> None:
        await answers(cache)
        with capture_logs() as lines:
            redis.kill()
            start = time.perf_counter()
            while time.perf_counter() - start < 0.5:  # it is tried several times meanwhile
                await asyncio.gather(*(cache.get(ALICE, "k") for _ in range(100)))
            redis.start()
            await answers(cache)
        told = [line["event"] for line in lines]
        assert told == [
            "Redis does not answer; until it does, everything cached there is a miss",
            "Redis answers again",
        ]

    async def test_what_the_front_holds_is_still_answered(self, redis: RedisServer) -> None:
        cache = Cache(RedisStore(redis.url), SystemClock())
        await answers(cache)
        await until(lambda: cache.get(ALICE, "k"))
        redis.kill()
        assert await cache.get(ALICE, "k") == b"value"
        assert await cache.get(ALICE, "other") is None
        await cache.close()

    async def test_closing_does_not_wait_for_it(self, redis: RedisServer) -> None:
        cache = Cache(RedisStore(redis.url), SystemClock())
        await answers(cache)
        redis.freeze()
        reader = asyncio.create_task(cache.get(ALICE, "other"))
        await asyncio.sleep(0)
        async with asyncio.timeout(HANGS):
            await cache.close()
        assert await reader is None


class TestCounting:
    async def test_a_count_that_got_no_answer_is_not_sent_again(self) -> None:
        """Sent twice it could count twice. A server that greets and then only listens hears it once."""
        heard: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while said := await reader.read(65536):
                heard.append(said)
                writer.write(b"+OK\r\n" * said.count(b"CLIENT"))
            writer.close()

        async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            store = RedisStore(f"redis://127.0.0.1:{port}/0?protocol=2")
            cache = Cache(store, SystemClock(), front_bytes=0)
            assert await cache.incr(ALICE, "n", ttl=600) is None
            await until(lambda: _true(not store._calls))  # the library has given up as well
            await cache.close()
        assert b"".join(heard).count(b"EVALSHA") == 1


class TestManyAtOnce:
    async def test_no_answer_goes_to_the_wrong_caller_when_others_leave(self, redis: RedisServer) -> None:
        store = RedisStore(redis.url)
        cache = Cache(store, SystemClock(), front_bytes=0)
        keys = [f"k{number}" for number in range(200)]
        for key in keys:
            await until(lambda key=key: cache.set(ALICE, key, key.encode(), 600))
        for _ in range(5):
            redis.freeze()
            leaving = [asyncio.create_task(cache.get(ALICE, key)) for key in keys]
            await until(lambda: _true(bool(store._calls)))
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            redis.thaw()
            await until(lambda: cache.get(ALICE, keys[0]))
            found = await asyncio.gather(*(cache.get(ALICE, key) for key in keys))
            assert all(value in (None, key.encode()) for key, value in zip(keys, found, strict=True))
        assert await until(lambda: cache.get(ALICE, keys[-1])) == keys[-1].encode()
        await cache.close()

    async def test_callers_who_leave_cost_no_connection(self, redis: RedisServer, admin: Any) -> None:
        cache = Cache(RedisStore(redis.url, timeout=5), SystemClock(), front_bytes=0)
        await answers(cache)
        for _ in range(10):
            leaving = [asyncio.create_task(cache.get(ALICE, "k")) for _ in range(2 * _CONNECTIONS)]
            await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        assert await asyncio.gather(*(cache.get(ALICE, "k") for _ in range(500))) == [b"value"] * 500
        clients = (await admin.info("clients"))["connected_clients"]
        assert clients <= _CONNECTIONS + 1
        await cache.close()


class TestRefusals:
    async def test_a_full_redis_is_still_read_and_is_complained_of_once(self, cache: Cache, admin: Any) -> None:
        await answers(cache)
        await admin.config_set("maxmemory", 1)
        with capture_logs() as lines:
            for _ in range(20):
                assert await cache.set(ALICE, "other", b"value", 60) is False
                assert await until(lambda: cache.get(ALICE, "k")) == b"value"
        assert [line["log_level"] for line in lines] == ["warning"]
        assert "refuses" in lines[0]["event"]
        await admin.config_set("maxmemory", 0)
        assert await until(lambda: cache.set(ALICE, "other", b"value", 60))

    async def test_a_wrong_password_is_a_miss_and_is_not_shown(self, redis: RedisServer, admin: Any) -> None:
        await admin.config_set("requirepass", "right")
        cache = Cache(RedisStore(redis.url.replace("redis://", "redis://:planted-wrong@")), SystemClock())
        with capture_logs() as lines:
            assert await cache.get(ALICE, "k") is None
        assert len(lines) == 1
        assert "planted-wrong" not in str(lines)
        await cache.close()

    async def test_a_value_that_another_program_left_there_is_a_miss(self, cache: Cache, admin: Any) -> None:
        for value in (b"", b"not ours", b"9" * 40):
            await admin.set(f"backstay:cache:{ALICE.hex}:k", value)
            assert await cache.get(ALICE, "k") is None


async def test_every_key_in_redis_names_its_tenant_and_ends_by_itself(cache: Cache, admin: Any) -> None:
    tenants = [ALICE, UUID(int=0), uuid4()]
    for tenant in tenants:
        assert await until(lambda tenant=tenant: cache.set(tenant, "k", b"value", 60))
        assert await until(lambda tenant=tenant: cache.incr(tenant, "n", ttl=60))
        assert await until(lambda tenant=tenant: cache.incr(tenant, "n", ttl=600))
    names = {name.decode() for name in await admin.keys("*")}
    assert names == {f"backstay:cache:{tenant.hex}:{key}" for tenant in tenants for key in ("k", "n")}
    assert all([50_000 < await admin.pttl(name) <= 60_000 for name in names])


async def _true(value: bool) -> bool:
    return value


async def _true_of(call: Awaitable[Any], wanted: Any) -> bool:
    return bool(await call == wanted)
