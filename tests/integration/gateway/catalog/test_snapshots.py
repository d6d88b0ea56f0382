"""Changes reach every process, nothing reaches any before its commit, and a lost database is no lost catalogue."""

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg
import pytest

from backstay.app import App
from backstay.gateway import ModelNotFound
from backstay.gateway.catalog import Catalog, Route, RouteUnreadable, Snapshot
from backstay.gateway.catalog.price import PriceList
from backstay.gateway.catalog.snapshots import TENANTS, Snapshots
from backstay.kernel.errors import Unavailable
from backstay.kernel.principal import Principal

SMART = Route(name="smart", targets=["a:m"])
SMARTER = Route(name="smart", targets=["b:m"])


class Oops(Exception):
    """A caller's program breaks."""


async def first_target(catalog: Catalog, tenant: UUID) -> str | None:
    routes = (await catalog.of(tenant)).routes
    return routes["smart"].readable().targets[0].model if "smart" in routes else None


async def becomes(catalog: Catalog, tenant: UUID, model: str | None) -> None:
    """Waits until the catalogue has it."""
    async with asyncio.timeout(20):
        while await first_target(catalog, tenant) != model:  # noqa: ASYNC110 -- another instance commits it
            await asyncio.sleep(0.005)


async def test_a_process_sees_its_own_change_with_its_next_call(app: App, owner: Principal) -> None:
    assert await first_target(app.catalog, owner.tenant) is None
    for route, model in ((SMART, "a:m"), (SMARTER, "b:m")):
        await app.catalog.routes.put(owner, route)
        assert await first_target(app.catalog, owner.tenant) == model
    await app.catalog.routes.delete(owner, "smart")
    assert await first_target(app.catalog, owner.tenant) is None


async def test_another_process_is_told_of_it(app: App, owner: Principal, another) -> None:
    there = await another(ttl=600)
    assert await first_target(there, owner.tenant) is None
    await app.catalog.routes.put(owner, SMART)
    await becomes(there, owner.tenant, "a:m")  # LISTEN stands by now
    await app.catalog.routes.put(owner, SMARTER)
    await becomes(there, owner.tenant, "b:m")


async def test_without_a_wake_up_it_is_seen_when_the_time_is_up(app: App, owner: Principal, another) -> None:
    there = await another(ttl=0.3, listening=False)
    assert await first_target(there, owner.tenant) is None
    await app.catalog.routes.put(owner, SMART)
    assert await first_target(there, owner.tenant) is None, "nobody has told it"
    await becomes(there, owner.tenant, "a:m")


async def test_a_callers_own_transaction_shows_nothing_before_its_commit(app: App, owner: Principal) -> None:
    async with app.transaction(owner.tenant) as tx:
        await app.catalog.routes.put(owner, SMART, tx=tx)
        assert await first_target(app.catalog, owner.tenant) is None
    assert await first_target(app.catalog, owner.tenant) == "a:m"


async def test_a_transaction_that_is_rolled_back_changes_nothing(app: App, owner: Principal, rows) -> None:
    await app.catalog.routes.put(owner, SMART)
    before = await rows("select * from backstay.catalog_revision")
    entries = await rows("select count(*) as n from backstay.audit_entry")
    with pytest.raises(Oops):
        async with app.transaction(owner.tenant) as tx:
            await app.catalog.routes.put(owner, SMARTER, tx=tx)
            await app.catalog.routes.put(owner, Route(name="other", targets=["c:m"]), tx=tx)
            raise Oops
    assert await first_target(app.catalog, owner.tenant) == "a:m"
    assert [stored.name for stored in await app.catalog.routes.list(owner)] == ["smart"]
    assert await rows("select * from backstay.catalog_revision") == before
    assert await rows("select count(*) as n from backstay.audit_entry") == entries


async def test_a_commit_by_the_callers_own_connection_is_told_to_every_process(
    app: App, owner: Principal, another
) -> None:
    there = await another(ttl=600)
    await app.catalog.routes.put(owner, SMART)
    await becomes(there, owner.tenant, "a:m")  # LISTEN stands by now
    async with await psycopg.AsyncConnection.connect(app.db.url_for("backstay_app")) as connection:
        async with connection.transaction(), app.transaction(owner.tenant, using=connection) as tx:
            await app.catalog.routes.put(owner, SMARTER, tx=tx)
        await connection.commit()
    for catalog in (app.catalog, there):
        await becomes(catalog, owner.tenant, "b:m")


async def test_a_call_keeps_the_snapshot_it_began_with(app: App, owner: Principal) -> None:
    await app.catalog.routes.put(owner, SMART)
    begun = await app.catalog.of(owner.tenant)
    await app.catalog.routes.put(owner, SMARTER)
    assert begun.route("smart").targets[0].model == "a:m"
    assert (await app.catalog.of(owner.tenant)).revision == begun.revision + 1


async def test_two_changes_at_once_come_one_after_the_other(app: App, owner: Principal, rows) -> None:
    many = [Route(name="smart", targets=[f"a:{number}"]) for number in range(12)]
    stored = await asyncio.gather(*(app.catalog.routes.put(owner, route) for route in many))
    assert sorted(one.revision for one in stored) == list(range(1, 13))
    newest = max(stored, key=lambda one: one.revision)
    assert await first_target(app.catalog, owner.tenant) == newest.readable().targets[0].model
    assert await rows("select revision from backstay.catalog_revision") == [{"revision": 12}]


class TestTheOperatorsRoutes:
    TABLE = {"routes": {"smart": {"targets": ["operator:m"]}, "cheap": {"targets": ["operator:n"]}}}

    async def test_hold_for_every_tenant_until_one_has_its_own(
        self, owner: Principal, other_owner: Principal, another
    ) -> None:
        catalog = await another(gateway=self.TABLE)
        assert await first_target(catalog, owner.tenant) == "operator:m"
        await catalog.routes.put(owner, SMART)
        assert await first_target(catalog, owner.tenant) == "a:m"
        assert await first_target(catalog, other_owner.tenant) == "operator:m"
        await catalog.routes.delete(owner, "smart")
        assert await first_target(catalog, owner.tenant) == "operator:m"

    async def test_a_program_may_define_some_while_it_runs(self, owner: Principal, another) -> None:
        catalog = await another()
        assert await first_target(catalog, owner.tenant) is None
        catalog.define(SMART)
        assert await first_target(catalog, owner.tenant) == "a:m"


async def test_a_name_that_nobody_has_gets_the_near_ones(app: App, owner: Principal) -> None:
    for name in ("smart", "cheap", "Vision-large"):
        await app.catalog.routes.put(owner, Route(name=name, targets=["a:m"]))
    snapshot = await app.catalog.of(owner.tenant)
    for wrong, near in (("smrat", "smart"), ("vision_large", "Vision-large"), ("CHEAP", "cheap")):
        with pytest.raises(ModelNotFound, match=f"did you mean {near}"):
            snapshot.route(wrong)
    for wrong in ("zzz", "", ":m", "a:", "ft:gpt-4o:mine"):
        with pytest.raises(ModelNotFound, match="Vision-large, cheap, smart"):
            snapshot.route(wrong)
    assert snapshot.route("gpt-5", plain="openai").name == "openai:gpt-5"
    assert snapshot.route("ft:gpt-4o:mine", plain="openai").name == "openai:ft:gpt-4o:mine"
    assert snapshot.route("sim:echo?tokens=3").name == "sim:echo?tokens=3"


async def test_a_route_that_a_newer_release_stored_stops_no_other(app: App, owner: Principal, client) -> None:
    await app.catalog.routes.put(owner, SMART)
    async with app.transaction(owner.tenant) as tx:
        await tx.execute(
            "insert into backstay.route values (%s, 'newer', '{\"spirals\": 3}', 1, now(), now())", [owner.tenant]
        )
    await app.catalog.routes.put(owner, SMARTER)
    snapshot = await app.catalog.of(owner.tenant)
    assert snapshot.route("smart").targets[0].model == "b:m"
    with pytest.raises(RouteUnreadable):
        snapshot.route("newer")
    listed = (await client.get("/api/gateway/routes")).json()["items"]
    assert [(item["name"], item["definition"] is None) for item in listed] == [("newer", True), ("smart", False)]
    assert (await client.delete("/api/gateway/routes/newer")).status_code == 204


class Now:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Source:
    """Stands for the database where it must fail or be slow at will."""

    def __init__(self) -> None:
        self.revision, self.reads, self.fails = 1, 0, False
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, tenant: UUID) -> Snapshot:
        self.reads += 1
        revision = self.revision
        await self.gate.wait()
        if self.fails:
            raise Unavailable("away")
        return Snapshot(tenant, revision, {}, {}, PriceList([]), None)  # type: ignore[arg-type]

    async def revisions(self, tenants) -> dict[UUID, int]:
        if self.fails:
            raise Unavailable("away")
        return dict.fromkeys(tenants, self.revision)


class TestInMemory:
    """The holding of snapshots alone, with a source that fails at will."""

    TENANT = uuid4()

    @pytest.fixture
    def now(self) -> Now:
        return Now()

    @pytest.fixture
    def source(self) -> Source:
        return Source()

    @pytest.fixture
    def snapshots(self, source: Source, now: Now) -> Snapshots:
        return Snapshots(source.read, source.revisions, now=now)

    async def test_calls_at_once_read_once(self, snapshots: Snapshots, source: Source) -> None:
        await asyncio.gather(*(snapshots.of(self.TENANT) for _ in range(50)))
        assert source.reads == 1

    async def test_a_failed_refresh_serves_the_last_one_and_tries_again(
        self, snapshots: Snapshots, source: Source, now: Now
    ) -> None:
        last = await snapshots.of(self.TENANT)
        source.fails, source.revision = True, 2
        now.seconds += 11
        assert await snapshots.of(self.TENANT) is last
        assert await snapshots.of(self.TENANT) is last
        assert source.reads == 2, "not with every call"
        source.fails = False
        now.seconds += 2
        assert (await snapshots.of(self.TENANT)).revision == 2

    async def test_what_was_never_read_cannot_be_served(self, snapshots: Snapshots, source: Source) -> None:
        source.fails = True
        with pytest.raises(Unavailable):
            await snapshots.of(self.TENANT)
        source.fails = False
        assert (await snapshots.of(self.TENANT)).revision == 1

    async def test_a_slow_database_holds_no_call_up(
        self, snapshots: Snapshots, source: Source, now: Now, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("backstay.gateway.catalog.snapshots._PATIENCE", 0.05)
        last = await snapshots.of(self.TENANT)
        source.gate.clear()
        source.revision = 2
        now.seconds += 11
        async with asyncio.timeout(5):
            assert await snapshots.of(self.TENANT) is last
        source.gate.set()
        now.seconds += 2
        assert (await snapshots.of(self.TENANT)).revision == 2

    async def test_a_change_during_a_reading_makes_another_one(self, snapshots: Snapshots, source: Source) -> None:
        source.gate.clear()
        asked = asyncio.create_task(snapshots.of(self.TENANT))
        while not source.reads:  # noqa: ASYNC110 -- the reading has to have begun
            await asyncio.sleep(0)
        source.revision = 2
        snapshots.forget(self.TENANT)
        source.gate.set()
        assert (await asked).revision == 2

    async def test_a_check_reads_again_only_what_has_changed(
        self, snapshots: Snapshots, source: Source, now: Now
    ) -> None:
        await snapshots.of(self.TENANT)
        for _ in range(5):
            now.seconds += 6
            await snapshots.check()
            await snapshots.of(self.TENANT)
        assert source.reads == 1
        source.revision = 2
        await snapshots.check()
        assert (await snapshots.of(self.TENANT)).revision == 2

    async def test_memory_is_bounded(self, snapshots: Snapshots, source: Source) -> None:
        for number in range(TENANTS + 5):
            await snapshots.of(UUID(int=number))
        assert len(snapshots._held) == TENANTS

    async def test_a_caller_who_leaves_takes_no_other_along(self, snapshots: Snapshots, source: Source) -> None:
        source.gate.clear()
        leaving, staying = (asyncio.create_task(snapshots.of(self.TENANT)) for _ in range(2))
        while not source.reads:  # noqa: ASYNC110 -- the reading has to have begun
            await asyncio.sleep(0)
        leaving.cancel()
        source.gate.set()
        assert (await staying).revision == 1
        with pytest.raises(asyncio.CancelledError):
            await leaving


async def test_the_loop_ends_at_once_when_asked(another: Callable) -> None:
    catalog, ending = await another(ttl=600, listening=False), asyncio.Event()
    keeping = asyncio.create_task(catalog.keep(ending))
    await asyncio.sleep(0)
    ending.set()
    async with asyncio.timeout(20):
        await keeping
