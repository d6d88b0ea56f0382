"""Evidence: it exists if and only if its transaction commits, nobody changes it, and its payloads are sealed."""

import asyncio
import json
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from psycopg import sql

from backstay.audit import Audit, EntryNotFound, NewEntry, PayloadErased
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Unsealable, Vault
from backstay.kernel.db import APP, OWNER, SYSTEM, Database
from backstay.kernel.errors import Invalid
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

PLANTED = "planted-personal-data"
TABLES = ["audit_entry", "audit_payload"]


@pytest.fixture
def audit(db: Database, vault: Vault) -> Audit:
    return Audit(db, SystemClock(), vault)


async def record(db: Database, audit: Audit, by: Principal, **options: Any) -> UUID:
    async with db.tenant_tx(by.tenant) as tx:
        return await audit.record(tx, by, "thing.done", "thing:1", **options)


class TestAppendOnly:
    @pytest.fixture
    async def entry(self, db: Database, audit: Audit, owner: Principal) -> UUID:
        return await record(db, audit, owner, payload={"a": 1})

    @pytest.mark.parametrize("table", TABLES)
    @pytest.mark.parametrize("role", [APP, SYSTEM, OWNER])
    @pytest.mark.parametrize(
        "statement",
        ["update backstay.{} set tenant_id = tenant_id", "delete from backstay.{}", "truncate backstay.{}"],
        ids=["update", "delete", "truncate"],
    )
    async def test_no_role_changes_what_is_written(
        self, db: Database, entry: UUID, owner: Principal, table: str, role: str, statement: str
    ) -> None:
        async with await psycopg.AsyncConnection.connect(db.url, options=f"-c role={role}") as connection:
            await connection.execute("select set_config('backstay.tenant_id', %s, false)", [str(owner.tenant)])
            await connection.commit()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(sql.SQL(statement).format(sql.Identifier(table)))  # type: ignore[arg-type]
            await connection.rollback()

    @pytest.mark.parametrize("table", TABLES)
    async def test_rights_that_come_back_by_mistake_do_not_help(
        self, db: Database, entry: UUID, owner: Principal, table: str
    ) -> None:
        name = sql.Identifier(table)
        async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as admin:
            await admin.execute(sql.SQL("grant all on backstay.{} to backstay_app").format(name))
        for statement in (
            "update backstay.{} set tenant_id = tenant_id",
            "delete from backstay.{}",
            "truncate backstay.{}",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                async with db.tenant_tx(owner.tenant) as tx:
                    await tx.connection.execute(sql.SQL(statement).format(name))  # type: ignore[arg-type]

    async def test_an_entry_is_not_replaced_by_one_with_its_id(
        self, db: Database, audit: Audit, entry: UUID, owner: Principal
    ) -> None:
        forged = self._entry(owner, id=entry)
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with db.tenant_tx(owner.tenant) as tx:
                await audit.record_many(tx, [forged])

    def _entry(self, by: Principal, **options: Any) -> NewEntry:
        return NewEntry(by.tenant, by.id, by.name, "thing.forged", "thing:1", datetime.now(UTC), **options)


class TestWithItsTransaction:
    async def test_an_entry_rolls_back(self, db: Database, audit: Audit, owner: Principal) -> None:
        before = await audit.entries(owner)
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_tx(owner.tenant) as tx:
                await audit.record(tx, owner, "thing.done", "thing:1", payload={"a": 1}, subject="ada")
                raise ZeroDivisionError
        assert await audit.entries(owner) == before
        async with db.system_tx() as tx:
            for table in ("audit_payload", "audit_key"):
                assert await (await tx.execute(f"select count(*) from backstay.{table}")).fetchone() == (0,)

    async def test_a_key_that_rolled_back_is_not_used_again(self, db: Database, audit: Audit, owner: Principal) -> None:
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_tx(owner.tenant) as tx:
                await audit.record(tx, owner, "thing.done", "thing:1", payload={"a": 1}, subject="ada")
                raise ZeroDivisionError
        entry = await record(db, audit, owner, payload={"a": 2}, subject="ada")
        assert await audit.payload(owner, entry) == {"a": 2}

    async def test_entries_of_several_tenants_in_one_system_transaction(
        self, db: Database, audit: Audit, owner: Principal, other_owner: Principal
    ) -> None:
        entries = [
            NewEntry(
                by.tenant, by.id, by.name, "batch.done", f"n:{n}", datetime.now(UTC), payload={"n": n}, subject="ada"
            )
            for n in range(3)
            for by in (owner, other_owner)
        ]
        async with db.system_tx() as tx:
            await audit.record_many(tx, entries)
        for by in (owner, other_owner):
            found = await audit.entries(by, action="batch.done")
            assert [entry.resource for entry in found] == ["n:2", "n:1", "n:0"]
            assert [await audit.payload(by, entry.id) for entry in found] == [{"n": 2}, {"n": 1}, {"n": 0}]

    async def test_an_entry_for_another_tenant_than_the_transactions_is_refused(
        self, db: Database, audit: Audit, tenant: UUID, other_owner: Principal
    ) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with db.tenant_tx(tenant) as tx:
                await audit.record(tx, other_owner, "thing.done", "thing:1")

    async def test_no_entries_are_no_statement(self, db: Database, audit: Audit, tenant: UUID) -> None:
        async with db.tenant_tx(tenant) as tx:
            await audit.record_many(tx, [])


class TestPayloads:
    async def test_nothing_of_them_is_readable_in_the_database(
        self, db: Database, audit: Audit, owner: Principal
    ) -> None:
        await record(db, audit, owner, payload={"text": PLANTED}, subject="ada")
        async with await psycopg.AsyncConnection.connect(db.url) as admin:
            tables = await (
                await admin.execute(
                    "select relname from pg_class where relnamespace = 'backstay'::regnamespace and relkind = 'r'"
                )
            ).fetchall()
            for (table,) in tables:
                cursor = await admin.execute(
                    sql.SQL("select count(*) from backstay.{} t where t::text ilike any(%s)").format(
                        sql.Identifier(table)
                    ),
                    [[f"%{PLANTED}%", f"%{PLANTED.encode().hex()}%"]],
                )
                assert await cursor.fetchone() == (0,), table

    async def test_equal_payloads_do_not_look_equal(self, db: Database, audit: Audit, owner: Principal) -> None:
        for _ in range(2):
            await record(db, audit, owner, payload={"text": PLANTED}, subject="ada")
        async with db.system_tx() as tx:
            cursor = await tx.execute(
                "select count(distinct ciphertext), count(distinct e.payload_hash) from backstay.audit_payload p"
                " join backstay.audit_entry e on e.id = p.entry_id"
            )
            assert await cursor.fetchone() == (2, 2)

    async def test_reading_one_is_an_entry(self, db: Database, audit: Audit, owner: Principal) -> None:
        entry = await record(db, audit, owner, payload={"a": 1})
        await audit.payload(owner, entry)
        (newest,) = await audit.entries(owner, limit=1)
        assert (newest.action, newest.resource, newest.actor_id) == (
            "audit.payload.read",
            f"audit_entry:{entry}",
            owner.id,
        )

    async def test_reading_one_over_http_is_an_entry_and_needs_its_own_permission(
        self, client: httpx.AsyncClient, db: Database, audit: Audit, owner: Principal
    ) -> None:
        entry = await record(db, audit, owner, payload={"text": PLANTED})
        answer = await client.get(f"/api/audit/entries/{entry}/payload")
        assert answer.json() == {"text": PLANTED}
        listed = await client.get("/api/audit/entries")
        assert listed.json()["items"][0]["action"] == "audit.payload.read"
        assert PLANTED not in listed.text

    async def test_another_tenant_neither_reads_nor_sees_it(
        self, db: Database, audit: Audit, owner: Principal, other_owner: Principal
    ) -> None:
        entry = await record(db, audit, owner, payload={"a": 1})
        before = await audit.entries(owner)
        with pytest.raises(EntryNotFound):
            await audit.payload(other_owner, entry)
        assert entry not in {found.id for found in await audit.entries(other_owner)}
        assert await audit.entries(owner) == before

    async def test_an_entry_without_one_says_so(self, db: Database, audit: Audit, owner: Principal) -> None:
        entry = await record(db, audit, owner)
        (found,) = await audit.entries(owner, limit=1)
        assert (found.id, found.has_payload) == (entry, False)
        with pytest.raises(EntryNotFound):
            await audit.payload(owner, entry)

    async def test_an_erased_subject_leaves_the_entry_and_no_way_to_the_payload(
        self, db: Database, vault: Vault, audit: Audit, owner: Principal
    ) -> None:
        entry = await record(db, audit, owner, payload={"a": 1}, subject="ada")
        kept = await record(db, audit, owner, payload={"b": 2}, subject="bob")
        async with db.system_tx() as tx:
            await tx.execute("update backstay.audit_key set wrapped = null, erased_at = now() where subject = 'ada'")
        elsewhere = Audit(db, SystemClock(), vault)
        with pytest.raises(PayloadErased):
            await elsewhere.payload(owner, entry)
        assert await elsewhere.payload(owner, kept) == {"b": 2}
        assert entry in {found.id for found in await elsewhere.entries(owner)}

    async def test_under_another_master_key_nothing_opens(self, db: Database, audit: Audit, owner: Principal) -> None:
        entry = await record(db, audit, owner, payload={"a": 1})
        with pytest.raises(Unsealable):
            await Audit(db, SystemClock(), Vault(b"another key, as long as needed..")).payload(owner, entry)

    async def test_a_payload_moved_to_another_entry_does_not_open(
        self, db: Database, audit: Audit, owner: Principal
    ) -> None:
        first = await record(db, audit, owner, payload={"a": 1})
        second = await record(db, audit, owner, payload={"b": 2})
        async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as admin:
            await admin.execute("set session_replication_role = replica")  # a superuser can; the cipher notices
            await admin.execute(
                "update backstay.audit_payload p set ciphertext = o.ciphertext from backstay.audit_payload o"
                " where p.entry_id = %s and o.entry_id = %s",
                [first, second],
            )
        with pytest.raises(Unsealable):
            await audit.payload(owner, first)

    async def test_any_mapping_is_stored_as_one(self, db: Database, audit: Audit, owner: Principal) -> None:
        frozen = MappingProxyType({"id": UUID(int=7), "at": datetime(2026, 1, 1, tzinfo=UTC), "n": [1, None, True]})
        entry = await record(db, audit, owner, payload=frozen, metadata=MappingProxyType({"kind": "x"}))
        assert await audit.payload(owner, entry) == {
            "id": str(UUID(int=7)),
            "at": "2026-01-01T00:00:00+00:00",
            "n": [1, None, True],
        }
        found = [each for each in await audit.entries(owner) if each.id == entry]
        assert found[0].metadata == {"kind": "x"}

    @pytest.mark.parametrize("payload", [{"n": 10**30}, {"text": "\ud800"}])
    async def test_what_json_cannot_hold_is_invalid(
        self, db: Database, audit: Audit, owner: Principal, payload: dict[str, Any]
    ) -> None:
        with pytest.raises(Invalid, match="stored as JSON"):
            await record(db, audit, owner, payload=payload)


scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
text_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
document = st.dictionaries(
    text_keys,
    st.recursive(scalar, lambda inner: st.one_of(st.lists(inner), st.dictionaries(text_keys, inner)), max_leaves=15),
)


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payload=document, subject=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
)
async def test_every_json_document_comes_back_as_it_was(
    db: Database, audit: Audit, owner: Principal, payload: dict[str, Any], subject: str | None
) -> None:
    entry = await record(db, audit, owner, payload=payload, subject=subject)
    assert await audit.payload(owner, entry) == json.loads(json.dumps(payload))


class TestKeys:
    async def test_processes_that_meet_a_subject_first_at_once_share_its_key(
        self, database_url: str, settings: Settings, vault: Vault, owner: Principal
    ) -> None:
        async with Database(database_url, settings) as one, Database(database_url, settings) as two:
            processes = [(db, Audit(db, SystemClock(), vault)) for db in (one, two)]
            entries = await asyncio.gather(
                *(
                    record(db, audit, owner, payload={"n": n}, subject=f"person {n % 4}")
                    for n in range(40)
                    for db, audit in processes
                )
            )
            async with one.system_tx() as tx:
                cursor = await tx.execute(
                    "select count(*), count(distinct subject) from backstay.audit_key where subject like 'person%'"
                )
                assert await cursor.fetchone() == (4, 4)
            payloads = [await processes[0][1].payload(owner, entry) for entry in entries]
            assert sorted(payload["n"] for payload in payloads) == sorted([*range(40), *range(40)])

    async def test_the_loser_waits_for_the_winner_and_uses_its_key(
        self, db: Database, vault: Vault, owner: Principal
    ) -> None:
        first, second = Audit(db, SystemClock(), vault), Audit(db, SystemClock(), vault)
        async with db.tenant_tx(owner.tenant) as tx:
            mine = await first.record(tx, owner, "a.b", "c", payload={"first": True}, subject="ada")
            waiting = asyncio.create_task(record(db, second, owner, payload={"first": False}, subject="ada"))
            await self._until_somebody_waits(db)
            assert not waiting.done()
        theirs = await waiting
        assert await second.payload(owner, mine) == {"first": True}
        assert await first.payload(owner, theirs) == {"first": False}

    async def test_the_loser_makes_its_own_when_the_winner_rolls_back(
        self, db: Database, vault: Vault, owner: Principal
    ) -> None:
        first, second = Audit(db, SystemClock(), vault), Audit(db, SystemClock(), vault)
        waiting: asyncio.Task[UUID] | None = None
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_tx(owner.tenant) as tx:
                await first.record(tx, owner, "a.b", "c", payload={"first": True}, subject="ada")
                waiting = asyncio.create_task(record(db, second, owner, payload={"first": False}, subject="ada"))
                await self._until_somebody_waits(db)
                raise ZeroDivisionError
        assert waiting is not None
        assert await first.payload(owner, await waiting) == {"first": False}

    async def _until_somebody_waits(self, db: Database) -> None:
        async with asyncio.timeout(10), await psycopg.AsyncConnection.connect(db.url, autocommit=True) as admin:
            while True:
                cursor = await admin.execute(
                    "select count(*) from pg_stat_activity"
                    " where datname = current_database() and wait_event_type = 'Lock'"
                )
                if await cursor.fetchone() != (0,):
                    return
                await asyncio.sleep(0.005)

    async def test_a_subject_of_one_tenant_has_another_key_in_another(
        self, db: Database, audit: Audit, owner: Principal, other_owner: Principal
    ) -> None:
        for by in (owner, other_owner):
            await record(db, audit, by, payload={"a": 1}, subject="ada")
        async with db.system_tx() as tx:
            cursor = await tx.execute("select count(distinct id), count(distinct wrapped) from backstay.audit_key")
            assert await cursor.fetchone() == (2, 2)


async def test_entries_are_found_by_what_they_are_about(db: Database, audit: Audit, owner: Principal) -> None:
    run, call = uuid4(), uuid4()
    async with db.tenant_tx(owner.tenant) as tx:
        wanted = await audit.record(tx, owner, "step.done", "run:7", run=run, call=call)
        for _ in range(5):
            await audit.record(tx, owner, "noise.made", "noise:1", run=uuid4(), call=uuid4())
    filters: list[dict[str, Any]] = [{"action": "step.done"}, {"resource": "run:7"}, {"run": run}, {"call": call}]
    for one in filters:
        assert [entry.id for entry in await audit.entries(owner, **one)] == [wanted], one


async def test_started_calls_without_an_end_are_reported(db: Database, audit: Audit, owner: Principal) -> None:
    ended, lost = uuid4(), uuid4()
    async with db.tenant_tx(owner.tenant) as tx:
        for call in (ended, lost):
            await audit.record(tx, owner, "model.call.started", "model:sim:echo", call=call)
        await audit.record(tx, owner, "model.call.finished", "model:sim:echo", call=ended)
    assert [row["call_id"] for row in await audit.unmatched_calls(owner)] == [lost]
