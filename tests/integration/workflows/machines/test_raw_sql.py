"""What the database refuses to whoever writes SQL of their own, under each role that works on the tables."""

from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, InsufficientPrivilege, UniqueViolation

from backstay.kernel.db import APP, OWNER, SYSTEM, Database
from backstay.workflows.machines import Instance, Machine

from .conftest import review, session

each_role = pytest.mark.parametrize("role", [APP, SYSTEM])

MOVE = "update backstay.machine_instance set state = %s, seq = seq + %s where id = %s"
TELL = (
    "insert into backstay.machine_transition (tenant_id, instance_id, seq, event, from_state, to_state, at, actor_id,"
    " actor, entry_id) values (%s, %s, %s, %s, %s, %s, now(), gen_random_uuid(), 'somebody', gen_random_uuid())"
)
ADD = (
    "insert into backstay.machine_instance (tenant_id, id, machine, version, state, seq, data, created_at, entered_at)"
    " values (%s, gen_random_uuid(), 'review', %s, %s, %s, '{}', now(), now())"
)


async def state_of(url: str, id: UUID) -> tuple[Any, ...] | None:
    async with await psycopg.AsyncConnection.connect(url) as admin:
        found = await admin.execute("select state, seq from backstay.machine_instance where id = %s", [id])
        return await found.fetchone()


@pytest.fixture
async def waiting(reviews: Machine, tenant: UUID) -> Instance:
    """An instance that has made one step."""
    started = await reviews.start(tenant=tenant)
    return await reviews.send(started.id, "submit", tenant=tenant)


@each_role
@pytest.mark.parametrize(
    ("state", "steps", "error"),
    [
        ("draft", 1, CheckViolation),  # no way back
        ("draft", 0, CheckViolation),  # nor a silent one
        ("nowhere", 1, (CheckViolation, ForeignKeyViolation)),
        ("approved", 0, CheckViolation),  # legal, and its number does not rise
        ("approved", 2, CheckViolation),
        ("approved", -1, CheckViolation),
        ("waiting", -1, CheckViolation),  # would bring an old timer back to life
        ("approved", 1, ForeignKeyViolation),  # legal, and nothing in the history tells of it
    ],
)
async def test_an_illegal_change_is_refused(
    database_url: str, tenant: UUID, waiting: Instance, role: str, state: str, steps: int, error: Any
) -> None:
    async with session(database_url, role, tenant) as raw:
        with pytest.raises(error):
            await raw.execute(MOVE, [state, steps, waiting.id])
    assert await state_of(database_url, waiting.id) == ("waiting", 1)


@each_role
async def test_a_legal_change_with_its_history_is_taken(
    database_url: str, tenant: UUID, waiting: Instance, role: str
) -> None:
    """Without this the refusals above might have another cause."""
    async with session(database_url, role, tenant) as raw, raw.transaction():
        await raw.execute(MOVE, ["approved", 1, waiting.id])
        await raw.execute(TELL, [tenant, waiting.id, 2, "approve", "waiting", "approved"])
    assert await state_of(database_url, waiting.id) == ("approved", 2)


@each_role
@pytest.mark.parametrize("final", ["approved", "rejected", "expired"])
async def test_a_final_state_is_not_left(
    database_url: str, tenant: UUID, reviews: Machine, waiting: Instance, role: str, final: str
) -> None:
    event = {"approved": "approve", "rejected": "reject", "expired": "expire"}[final]
    ended = await reviews.send(waiting.id, event, data={"reason": "x"}, tenant=tenant)
    async with session(database_url, role, tenant) as raw:
        for state in reviews.definition.by_name:
            with pytest.raises(CheckViolation):
                await raw.execute(MOVE, [state, 1, waiting.id])
    assert await state_of(database_url, waiting.id) == (final, ended.seq)


@each_role
@pytest.mark.parametrize(("version", "state", "seq"), [("1", "approved", 0), ("1", "draft", 1), ("2", "draft", 0)])
async def test_an_instance_begins_at_the_beginning_of_a_registered_version(
    database_url: str, tenant: UUID, waiting: Instance, role: str, version: str, state: str, seq: int
) -> None:
    async with session(database_url, role, tenant) as raw:
        with pytest.raises((CheckViolation, ForeignKeyViolation)):
            await raw.execute(ADD, [tenant, version, state, seq])


@each_role
async def test_an_instance_without_its_start_in_the_history_is_refused(
    database_url: str, tenant: UUID, waiting: Instance, role: str
) -> None:
    async with session(database_url, role, tenant) as raw:
        with pytest.raises(ForeignKeyViolation, match="machine_instance_history"):
            await raw.execute(ADD, [tenant, "1", "draft", 0])


@each_role
@pytest.mark.parametrize("column", ["id", "machine", "version", "key"])
async def test_an_instance_stays_what_it_is(
    database_url: str, tenant: UUID, waiting: Instance, role: str, column: str
) -> None:
    value = "gen_random_uuid()" if column == "id" else "'other'"
    async with session(database_url, role, tenant) as raw:
        with pytest.raises((InsufficientPrivilege, ForeignKeyViolation)):
            await raw.execute(f"update backstay.machine_instance set {column} = {value}")  # type: ignore[arg-type]


@each_role
@pytest.mark.parametrize(
    "statement",
    [
        "delete from backstay.machine_instance",
        "truncate backstay.machine_instance cascade",
        "update backstay.machine_transition set actor = 'nobody'",
        "delete from backstay.machine_transition",
        "truncate backstay.machine_transition cascade",
        "insert into backstay.machine_rule values ('review', '1', 'approved', 'undo', 'draft')",
        "update backstay.machine_state set final = false",
        "update backstay.machine set initial = 'approved'",
        "delete from backstay.machine_rule",
        "alter table backstay.machine_instance disable trigger legal",
        "set session_replication_role = replica",
    ],
)
async def test_neither_history_nor_definitions_can_be_bent(
    database_url: str, tenant: UUID, waiting: Instance, role: str, statement: str
) -> None:
    async with session(database_url, role, tenant) as raw:
        with pytest.raises(InsufficientPrivilege):
            await raw.execute(statement)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", ["machine_instance", "machine_transition"])
async def test_history_binds_the_superuser_too(database_url: str, waiting: Instance, table: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        for statement in (f"delete from backstay.{table}", f"truncate backstay.{table} cascade"):
            with pytest.raises((InsufficientPrivilege, ForeignKeyViolation)):
                await admin.execute(statement)  # type: ignore[arg-type]


@each_role
@pytest.mark.parametrize(
    ("seq", "event", "source", "target", "error"),
    [
        (2, "approve", "waiting", "approved", CheckViolation),  # a step that was not taken
        (1, "submit", "draft", "waiting", UniqueViolation),  # one that is told already
        (7, "submit", "draft", "waiting", CheckViolation),
    ],
)
async def test_history_tells_only_of_what_happened(
    database_url: str,
    tenant: UUID,
    waiting: Instance,
    role: str,
    seq: int,
    event: str,
    source: str,
    target: str,
    error: type[Exception],
) -> None:
    async with session(database_url, role, tenant) as raw:
        with pytest.raises(error):
            await raw.execute(TELL, [tenant, waiting.id, seq, event, source, target])


@each_role
@pytest.mark.parametrize(("event", "source"), [("reject", "waiting"), ("approve", "escalated"), (None, None)])
async def test_history_names_the_event_and_the_state_before(
    database_url: str, tenant: UUID, waiting: Instance, role: str, event: str | None, source: str | None
) -> None:
    """The step is legal and taken; its history has another event, or another state that it came from."""

    async def lie(raw: psycopg.AsyncConnection[Any]) -> None:
        async with raw.transaction():
            await raw.execute(MOVE, ["approved", 1, waiting.id])
            await raw.execute(TELL, [tenant, waiting.id, 2, event, source, "approved"])

    async with session(database_url, role, tenant) as raw:
        with pytest.raises(CheckViolation):
            await lie(raw)
    assert await state_of(database_url, waiting.id) == ("waiting", 1)


async def test_only_the_system_registers_and_it_changes_nothing_that_stands(
    database_url: str, tenant: UUID, waiting: Instance
) -> None:
    register = "select backstay.register_machine(%s::jsonb, 'x', now())"
    bent = '{"name": "review", "version": "1", "initial": "approved", "states": [], "transitions": []}'
    async with session(database_url, APP, tenant) as raw:
        with pytest.raises(InsufficientPrivilege):
            await raw.execute(register, [bent])
    async with session(database_url, SYSTEM, tenant) as raw:
        standing = await (await raw.execute(register, [bent])).fetchone()
        assert standing == (review().fingerprint,)
        assert await (await raw.execute("select initial from backstay.machine")).fetchall() == [("draft",)]


async def test_another_tenants_instance_is_out_of_reach(
    database_url: str, tenant: UUID, other_tenant: UUID, waiting: Instance, db: Database
) -> None:
    for role in (APP, OWNER):
        async with session(database_url, role, other_tenant) as raw:
            for table in ("machine_instance", "machine_transition"):
                seen = await raw.execute(f"select * from backstay.{table}")  # type: ignore[arg-type]
                assert await seen.fetchall() == []
    async with session(database_url, APP, other_tenant) as raw:
        assert (await raw.execute(MOVE, ["approved", 1, waiting.id])).rowcount == 0
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            await raw.execute(TELL, [tenant, waiting.id, 2, "approve", "waiting", "approved"])
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            await raw.execute(ADD, [tenant, "1", "draft", 0])
        with pytest.raises((CheckViolation, ForeignKeyViolation)):  # in our own tenant, about an instance of another
            await raw.execute(TELL, [other_tenant, waiting.id, 2, "approve", "waiting", "approved"])


@each_role
async def test_an_instance_of_another_tenant_is_not_deleted(
    database_url: str, tenant: UUID, other_tenant: UUID, waiting: Instance, role: str
) -> None:
    call = "select backstay.delete_machine_instance(%s, %s)"
    async with session(database_url, role, other_tenant) as raw:
        with pytest.raises(InsufficientPrivilege):
            await raw.execute(call, [tenant, waiting.id])
    async with session(database_url, role, other_tenant) as raw:
        assert await (await raw.execute(call, [other_tenant, waiting.id])).fetchone() == (False,)


async def test_a_deletion_opens_the_way_for_nothing_else(
    database_url: str, tenant: UUID, reviews: Machine, waiting: Instance
) -> None:
    other = await reviews.start(tenant=tenant)
    async with await psycopg.AsyncConnection.connect(database_url) as admin:
        await admin.execute("select set_config('backstay.tenant_id', %s, true)", [str(tenant)])
        gone = await admin.execute("select backstay.delete_machine_instance(%s, %s)", [tenant, waiting.id])
        assert await gone.fetchone() == (True,)
        with pytest.raises(InsufficientPrivilege):
            await admin.execute("delete from backstay.machine_transition where instance_id = %s", [other.id])
        await admin.rollback()
    assert (await reviews.get(waiting.id, tenant=tenant)).state == "waiting", "it was rolled back with the rest"
