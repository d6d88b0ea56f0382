"""What holds for the cache whatever it keeps its entries in, with the front and without."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from backstay.app import App
from backstay.kernel.cache import FRONT_BYTES, MAX_COUNT, MAX_KEY, MAX_VALUE, Cache, Entry, NotACount, Store
from backstay.kernel.cache_postgres import PostgresStore
from backstay.kernel.cache_redis import RedisStore
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError, Invalid
from backstay.kernel.settings import Settings
from conftest import MASTER_KEY
from redis_server import RedisServer, redis_server

ALICE, BOB = uuid4(), uuid4()
SLOW_MACHINE = 5.0  # seconds: these tests are about what is kept, not about haste
STORES = ["postgres", "redis"]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def postgres_store(db: Database, manual_clock: ManualClock) -> Store:
    return PostgresStore(db, manual_clock)


@pytest.fixture
async def redis_store(redis: RedisServer) -> AsyncIterator[Store]:
    store = RedisStore(redis.url, timeout=SLOW_MACHINE)
    yield store
    await store.close()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """Two caches over it are the caches of two processes."""
    made: Store = request.getfixturevalue(f"{request.param}_store")
    return made


@pytest.fixture(params=[0, FRONT_BYTES], ids=["bare", "fronted"])
def cache(request: pytest.FixtureRequest, store: Store, manual_clock: ManualClock) -> Cache:
    return Cache(store, manual_clock, front_bytes=request.param)


@pytest.fixture
def key() -> str:
    """Another one for each test: they share the Redis."""
    return f"key {uuid4()}"


each_store = pytest.mark.parametrize("store", STORES, indirect=True)


@each_store
class TestValues:
    async def test_what_was_set_is_found_byte_for_byte(self, cache: Cache, key: str) -> None:
        for value in (b"", b"\0\xff\r\n" * 100, bytes(range(256)), b"12"):
            assert await cache.set(ALICE, key, value, 60) is True
            assert await cache.get(ALICE, key) == value
            assert await cache.get(ALICE, key) == value

    async def test_what_was_never_set_is_a_miss(self, cache: Cache, key: str) -> None:
        assert await cache.get(ALICE, key) is None

    async def test_a_second_value_replaces_the_first_and_its_end(
        self, cache: Cache, key: str, manual_clock: ManualClock
    ) -> None:
        await cache.set(ALICE, key, b"first", 10)
        assert await cache.get(ALICE, key) == b"first"
        await cache.set(ALICE, key, b"second", 100)
        manual_clock.advance(timedelta(seconds=50))
        assert await cache.get(ALICE, key) == b"second"

    async def test_a_value_ends_with_its_ttl_and_not_before(
        self, cache: Cache, key: str, manual_clock: ManualClock
    ) -> None:
        await cache.set(ALICE, key, b"value", 60)
        manual_clock.advance(timedelta(seconds=59.9))
        assert await cache.get(ALICE, key) == b"value"
        manual_clock.advance(timedelta(seconds=0.1))
        assert await cache.get(ALICE, key) is None

    async def test_a_ttl_may_be_a_part_of_a_second(self, cache: Cache, key: str, manual_clock: ManualClock) -> None:
        await cache.set(ALICE, key, b"value", 0.5)
        manual_clock.advance(timedelta(seconds=0.4))
        assert await cache.get(ALICE, key) == b"value"
        manual_clock.advance(timedelta(seconds=0.1))
        assert await cache.get(ALICE, key) is None

    async def test_what_was_deleted_is_a_miss(self, cache: Cache, key: str) -> None:
        await cache.set(ALICE, key, b"value", 60)
        assert await cache.get(ALICE, key) == b"value"
        assert await cache.delete(ALICE, key) is True
        assert await cache.get(ALICE, key) is None

    async def test_deleting_what_is_not_there_is_no_error(self, cache: Cache, key: str) -> None:
        assert await cache.delete(ALICE, key) is True

    async def test_the_largest_value_is_kept_and_a_larger_one_is_not(self, cache: Cache, key: str) -> None:
        assert await cache.set(ALICE, key, b"x" * MAX_VALUE, 60) is True
        assert await cache.get(ALICE, key) == b"x" * MAX_VALUE
        assert await cache.set(ALICE, key, b"x" * (MAX_VALUE + 1), 60) is False

    async def test_any_printable_key_is_its_own_place(self, cache: Cache) -> None:
        keys = ["a", "a:b", "a b", "A", "ä", "日本", "%s %(a)s", "x" * MAX_KEY, "{a}", "a*"]
        for number, key in enumerate(keys):
            await cache.set(ALICE, key, str(number).encode(), 60)
        assert [await cache.get(ALICE, key) for key in keys] == [str(number).encode() for number in range(len(keys))]


@each_store
class TestTenants:
    async def test_the_same_key_of_two_tenants_is_two_places(self, cache: Cache, key: str) -> None:
        await cache.set(ALICE, key, b"hers", 60)
        assert await cache.get(BOB, key) is None
        await cache.set(BOB, key, b"his", 60)
        assert await cache.get(ALICE, key) == b"hers"
        assert await cache.get(BOB, key) == b"his"

    async def test_no_key_reaches_into_another_tenant(self, cache: Cache, key: str) -> None:
        await cache.set(ALICE, key, b"hers", 60)
        await cache.get(ALICE, key)
        for forged in (
            f"{ALICE.hex}:{key}",
            f"{ALICE}:{key}",
            f"../{ALICE.hex}:{key}",
            f"backstay:cache:{ALICE.hex}:{key}",
        ):
            assert await cache.get(BOB, forged[:MAX_KEY]) is None
            await cache.delete(BOB, forged[:MAX_KEY])
        assert await cache.get(ALICE, key) == b"hers"

    async def test_deleting_is_for_the_tenant_only(self, cache: Cache, key: str) -> None:
        await cache.set(ALICE, key, b"hers", 60)
        await cache.delete(BOB, key)
        assert await cache.get(ALICE, key) == b"hers"

    async def test_counts_of_two_tenants_do_not_add_up(self, cache: Cache, key: str) -> None:
        assert await cache.incr(ALICE, key, 5, ttl=60) == 5
        assert await cache.incr(BOB, key, ttl=60) == 1


@each_store
class TestCounts:
    async def test_begin_at_nothing_and_add_up(self, cache: Cache, key: str) -> None:
        assert [await cache.incr(ALICE, key, by, ttl=60) for by in (1, 1, 10, -20, 0)] == [1, 2, 12, -8, -8]
        assert await cache.get(ALICE, key) == b"-8"

    async def test_of_a_hundred_at_once_no_two_get_the_same(self, cache: Cache, key: str) -> None:
        counts = await asyncio.gather(*(cache.incr(ALICE, key, ttl=60) for _ in range(100)))
        assert sorted(count or 0 for count in counts) == list(range(1, 101))

    async def test_end_as_their_first_ttl_says_however_often_they_are_added_to(
        self, cache: Cache, key: str, manual_clock: ManualClock
    ) -> None:
        await cache.incr(ALICE, key, ttl=10)
        manual_clock.advance(timedelta(seconds=9))
        assert await cache.incr(ALICE, key, ttl=10) == 2
        manual_clock.advance(timedelta(seconds=1))
        assert await cache.get(ALICE, key) is None
        assert await cache.incr(ALICE, key, ttl=10) == 1
        manual_clock.advance(timedelta(seconds=9))
        assert await cache.incr(ALICE, key, ttl=10) == 2

    async def test_go_on_from_a_number_that_was_set(self, cache: Cache, key: str) -> None:
        await cache.set(ALICE, key, b"41", 60)
        assert await cache.get(ALICE, key) == b"41"
        assert await cache.incr(ALICE, key, ttl=60) == 42
        assert await cache.get(ALICE, key) == b"42"

    @pytest.mark.parametrize(
        "value", [b"", b"x", b"1x", b" 1", b"+1", b"0x10", b"1_0", b"1.0", b"\xff", b"9" * 17, b"-"]
    )
    async def test_what_is_no_count_is_refused_and_stays(self, cache: Cache, key: str, value: bytes) -> None:
        await cache.set(ALICE, key, value, 60)
        with pytest.raises(NotACount):
            await cache.incr(ALICE, key, ttl=60)
        assert await cache.get(ALICE, key) == value

    async def test_begin_anew_where_something_else_has_ended(
        self, cache: Cache, key: str, manual_clock: ManualClock
    ) -> None:
        await cache.set(ALICE, key, b"no number", 10)
        manual_clock.advance(timedelta(seconds=10))
        assert await cache.incr(ALICE, key, 3, ttl=60) == 3

    async def test_are_exact_up_to_their_bound_and_never_pass_it(self, cache: Cache, key: str) -> None:
        assert await cache.incr(ALICE, key, MAX_COUNT - 1, ttl=60) == MAX_COUNT - 1
        assert await cache.incr(ALICE, key, ttl=60) == MAX_COUNT
        with pytest.raises(NotACount):
            await cache.incr(ALICE, key, ttl=60)
        assert await cache.incr(ALICE, key, -MAX_COUNT, ttl=60) == 0
        assert await cache.incr(ALICE, key, -MAX_COUNT, ttl=60) == -MAX_COUNT
        with pytest.raises(NotACount):
            await cache.incr(ALICE, key, -1, ttl=60)
        assert await cache.get(ALICE, key) == str(-MAX_COUNT).encode()


@each_store
class TestRefused:
    @pytest.mark.parametrize("key", ["", "x" * (MAX_KEY + 1), "a\0b", "a\nb", "\ud800"])
    async def test_a_key_that_not_every_store_could_hold(self, cache: Cache, key: str) -> None:
        for call in (
            cache.get(ALICE, key),
            cache.set(ALICE, key, b"", 60),
            cache.delete(ALICE, key),
            cache.incr(ALICE, key, ttl=60),
        ):
            with pytest.raises(Invalid, match="printable"):
                await call

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e12])
    async def test_a_ttl_that_is_none(self, cache: Cache, key: str, ttl: float) -> None:
        for call in (cache.set(ALICE, key, b"", ttl), cache.incr(ALICE, key, ttl=ttl)):
            with pytest.raises(Invalid, match="seconds"):
                await call

    async def test_a_step_beyond_what_can_be_counted(self, cache: Cache, key: str) -> None:
        with pytest.raises(Invalid, match="between"):
            await cache.incr(ALICE, key, MAX_COUNT + 1, ttl=60)


@each_store
class TestTwoProcesses:
    """Two caches over one store."""

    @pytest.fixture
    def pair(self, store: Store, manual_clock: ManualClock) -> tuple[Cache, Cache]:
        return Cache(store, manual_clock), Cache(store, manual_clock)

    async def test_see_what_the_other_has_set(self, pair: tuple[Cache, Cache], key: str) -> None:
        here, there = pair
        await here.set(ALICE, key, b"value", 60)
        assert await there.get(ALICE, key) == b"value"

    async def test_count_together(self, pair: tuple[Cache, Cache], key: str) -> None:
        counts = await asyncio.gather(*(cache.incr(ALICE, key, ttl=60) for cache in pair * 20))
        assert sorted(count or 0 for count in counts) == list(range(1, 41))

    async def test_after_a_delete_the_other_answers_with_its_copy_for_five_seconds_at_most(
        self, pair: tuple[Cache, Cache], key: str, manual_clock: ManualClock
    ) -> None:
        here, there = pair
        await here.set(ALICE, key, b"value", 3600)
        assert await there.get(ALICE, key) == b"value"
        await here.delete(ALICE, key)
        assert await here.get(ALICE, key) is None
        manual_clock.advance(timedelta(seconds=4.9))
        assert await there.get(ALICE, key) == b"value"
        manual_clock.advance(timedelta(seconds=0.1))
        assert await there.get(ALICE, key) is None


class Slow:
    """A store on which a read waits until the test lets it go on, with what it has read already."""

    name = "slow"

    def __init__(self) -> None:
        self.entries: dict[tuple[UUID, str], Entry] = {}
        self.reading, self.go_on = asyncio.Event(), asyncio.Event()
        self.finds = 0

    async def find(self, tenant: UUID, key: str, now: datetime) -> Entry | None:
        self.finds += 1
        entry = self.entries.get((tenant, key))
        self.reading.set()
        await self.go_on.wait()
        return entry

    async def keep(self, tenant: UUID, key: str, entry: Entry, now: datetime) -> None:
        self.entries[tenant, key] = entry

    async def drop(self, tenant: UUID, key: str) -> None:
        self.entries.pop((tenant, key), None)

    async def count(self, tenant: UUID, key: str, by: int, expires_at: datetime, now: datetime) -> int | None:
        self.entries[tenant, key] = Entry(b"%d" % by, expires_at)
        return by

    async def tend(self, ending: asyncio.Event) -> None: ...

    async def close(self) -> None: ...


class TestTheFront:
    async def test_answers_without_asking_the_store(self, manual_clock: ManualClock) -> None:
        store = Slow()
        store.go_on.set()
        cache = Cache(store, manual_clock)
        await cache.set(ALICE, "k", b"value", 60)
        assert [await cache.get(ALICE, "k") for _ in range(5)] == [b"value"] * 5
        assert store.finds == 1
        assert await cache.get(BOB, "k") is None
        assert store.finds == 2

    @pytest.mark.parametrize(
        ("write", "left"),
        [
            (lambda cache: cache.set(ALICE, "k", b"new", 60), b"new"),
            (lambda cache: cache.delete(ALICE, "k"), None),
            (lambda cache: cache.incr(ALICE, "k", 7, ttl=60), b"7"),
        ],
        ids=["set", "delete", "incr"],
    )
    async def test_a_read_under_way_does_not_bring_back_what_a_write_has_replaced(
        self, manual_clock: ManualClock, write: Callable[[Cache], Awaitable[Any]], left: bytes | None
    ) -> None:
        store = Slow()
        cache = Cache(store, manual_clock)
        await cache.set(ALICE, "k", b"old", 60)
        reader = asyncio.create_task(cache.get(ALICE, "k"))
        await store.reading.wait()
        await write(cache)
        store.go_on.set()
        assert await reader == b"old"  # it began before the write
        assert await cache.get(ALICE, "k") == left

    async def test_a_reader_that_is_cancelled_leaves_nothing_behind(self, manual_clock: ManualClock) -> None:
        store = Slow()
        cache = Cache(store, manual_clock)
        reader = asyncio.create_task(cache.get(ALICE, "k"))
        await store.reading.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert cache._reading == {}


class TestPostgres:
    async def test_rows_that_have_ended_are_removed_and_no_others(
        self, db: Database, manual_clock: ManualClock
    ) -> None:
        store = PostgresStore(db, manual_clock)
        cache = Cache(store, manual_clock)
        for number in range(5):
            await cache.set(ALICE, f"short {number}", b"", 10)
        await cache.set(BOB, "long", b"", 100)
        manual_clock.advance(timedelta(seconds=10))
        assert [await store.prune(limit=3) for _ in range(3)] == [3, 2, 0]
        async with db.system_tx() as tx:
            rows = await (await tx.execute("select key from backstay.cache")).fetchall()
        assert rows == [("long",)]

    async def test_a_running_app_removes_what_has_ended_and_its_cache_ends_with_it(self, settings: Settings) -> None:
        async with App(settings) as app:
            assert await app.cache.set(app.default_tenant, "k", b"value", 60)
            assert await app.cache.get(app.default_tenant, "k") == b"value"

    async def test_is_a_miss_while_the_table_cannot_be_used(
        self, db: Database, database_url: str, manual_clock: ManualClock
    ) -> None:
        cache = Cache(PostgresStore(db, manual_clock), manual_clock)
        await cache.set(ALICE, "k", b"value", 60)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            await admin.execute("alter table backstay.cache rename to elsewhere")
            assert await cache.get(ALICE, "k") is None
            assert await cache.set(ALICE, "k", b"other", 60) is False
            assert await cache.delete(ALICE, "k") is False
            assert await cache.incr(ALICE, "n", ttl=60) is None
            await admin.execute("alter table backstay.elsewhere rename to cache")
        assert await cache.get(ALICE, "k") == b"value"

    async def test_writes_no_wal(self, database_url: str) -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as admin:
            row = await (
                await admin.execute("select relpersistence from pg_class where oid = 'backstay.cache'::regclass")
            ).fetchone()
        assert row == ("u",)


class TestSettings:
    async def test_with_a_redis_url_the_app_keeps_its_cache_there(self, settings: Settings, redis: RedisServer) -> None:
        async with App(settings.model_copy(update={"redis_url": redis.url})) as app:
            async with asyncio.timeout(30):
                while not await app.cache.set(app.default_tenant, "k", b"value", 60):  # noqa: ASYNC110 -- it may be busy
                    await asyncio.sleep(0.05)
            async with app.db.system_tx() as tx:
                rows = await (await tx.execute("select 1 from backstay.cache")).fetchall()
        assert rows == []

    async def test_an_app_starts_and_works_while_its_redis_is_down(self, settings: Settings) -> None:
        async with App(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as app:
            assert await app.cache.get(app.default_tenant, "k") is None
            assert await app.cache.set(app.default_tenant, "k", b"value", 60) is False

    def test_a_url_that_is_none_is_refused_with_the_mend(self) -> None:
        with pytest.raises(ConfigurationError, match=r"BACKSTAY_REDIS_URL: must begin with redis://"):
            Settings.load(redis_url="http://secret@127.0.0.1")
        with pytest.raises(ConfigurationError, match=r"is written like redis://") as caught:
            App(Settings.load(redis_url="redis://:secret@127.0.0.1:port/0", master_key=MASTER_KEY))
        assert "secret" not in str(caught.value)
