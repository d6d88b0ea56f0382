"""Start and send: what commits together, what is refused and how, and who wins when two send at once."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import BaseModel

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database, Tx
from backstay.kernel.errors import BackstayError, ConfigurationError, TenantMismatch
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows.machines import (
    DataInvalid,
    Definition,
    GuardRefused,
    IllegalTransition,
    Instance,
    InstanceMoved,
    InstanceNotFound,
    Machine,
    Machines,
    State,
    Transition,
    UnknownEvent,
)

from .conftest import WAIT, process, review, rows

TABLES = ("machine_instance", "machine_transition", "audit_entry", "audit_payload", "outbox", "job")


async def counts(db: Database) -> list[int]:
    """How many rows the tables have that a step writes to."""
    return [(await rows(db, f"select count(*) from backstay.{table}"))[0][0] for table in TABLES]


async def test_a_step_is_state_history_audit_event_and_timer(
    reviews: Machine, machines: Machines, owner: Principal, db: Database, manual_clock: ManualClock, vault: Vault
) -> None:
    audit, events = Audit(db, manual_clock, vault), Events(db, manual_clock)
    started = await reviews.start("r-1", data={"text": "hello"}, by=owner)
    assert (started.state, started.seq, started.allowed, started.due_at) == ("draft", 0, ["submit"], None)
    assert (started.machine, started.version, started.key, started.data) == ("review", "1", "r-1", {"text": "hello"})
    begun = manual_clock.advance(WAIT / 4)
    waiting = await reviews.send("r-1", "submit", by=owner, data={"note": "please"})
    assert (waiting.id, waiting.state, waiting.seq) == (started.id, "waiting", 1)
    assert waiting.allowed == ["remind", "approve", "reject", "expire"]
    assert (waiting.entered_at, waiting.due_at, waiting.finished_at) == (begun, begun + WAIT, None)
    ended_at = manual_clock.advance(WAIT / 4)
    ended = await reviews.send(started.id, "approve", by=owner, data={"amount": 5})
    assert (ended.state, ended.allowed, ended.due_at, ended.finished_at) == ("approved", [], None, ended_at)

    found = await reviews.get("r-1", by=owner)
    steps = [(step.seq, step.event, step.from_state, step.to_state, step.actor) for step in found.history]
    assert steps == [
        (2, "approve", "waiting", "approved", "owner"),
        (1, "submit", "draft", "waiting", "owner"),
        (0, None, None, "draft", "owner"),
    ]
    entries = await audit.entries(owner, resource=f"machine_instance:{started.id}")
    assert [entry.id for entry in entries] == [step.entry_id for step in found.history]
    assert [entry.action for entry in entries] == ["machine.moved", "machine.moved", "machine.started"]
    assert {entry.actor_id for entry in entries} == {owner.id}
    assert entries[0].metadata == {
        **{"machine": "review", "version": "1", "event": "approve"},
        **{"from": "waiting", "to": "approved", "seq": 2},
    }
    assert [await audit.payload(owner, entry.id) for entry in entries] == [
        {"data": {"amount": 5}},
        {"data": {"note": "please"}},
        {"data": {"text": "hello"}},
    ]
    told = [event for event in await events.page(owner) if event.type.startswith("machine.")]
    assert [(event.type, event.payload["to"], event.payload["final"]) for event in told] == [
        ("machine.moved", "approved", True),
        ("machine.moved", "waiting", False),
        ("machine.started", "draft", False),
    ]
    assert {(event.payload["instance"], event.payload["key"]) for event in told} == {(str(started.id), "r-1")}
    timers = await rows(db, "select name, queue, unique_key, run_at from backstay.job")
    assert timers == [("machine.timeout", "workflows", f"{started.id}:1", begun + WAIT)]


async def test_everything_commits_with_the_callers_transaction_or_nothing_does(
    reviews: Machine, machines: Machines, tenant: UUID, db: Database
) -> None:
    await machines.register()
    before = await counts(db)

    async def fail(tx: Tx) -> None:
        instance = await reviews.start("k", data={"a": 1}, tx=tx)
        await reviews.send(instance.id, "submit", data={"a": 1}, tx=tx)
        assert (await reviews.get("k", tx=tx)).state == "waiting"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        async with db.tenant_tx(tenant) as tx:
            await fail(tx)
    assert await counts(db) == before
    async with db.tenant_tx(tenant) as tx:
        instance = await reviews.start("k", tx=tx)
        await reviews.send(instance.id, "submit", data={"a": 1}, tx=tx)
        assert await counts(db) == before, "seen before the commit"
    assert await counts(db) == [old + new for old, new in zip(before, (1, 2, 2, 1, 2, 1), strict=True)]


async def test_it_joins_the_callers_own_connection(reviews: Machine, tenant: UUID, db: Database) -> None:
    async with await psycopg.AsyncConnection.connect(db.url_for("backstay_app")) as connection:
        async with db.adopt(connection, tenant) as tx:
            instance = await reviews.start(tx=tx)
            await reviews.send(instance.id, "submit", tx=tx)
        await connection.rollback()
        with pytest.raises(InstanceNotFound):
            await reviews.get(instance.id, tenant=tenant)
        async with db.adopt(connection, tenant) as tx:
            instance = await reviews.start(tx=tx)
        await connection.commit()
    assert (await reviews.get(instance.id, tenant=tenant)).state == "draft"


@pytest.mark.parametrize(
    ("event", "data", "error", "code", "words"),
    [
        ("approve", {}, IllegalTransition, "illegal_transition", ["'draft'", "'submit'"]),
        ("sumbit", {}, UnknownEvent, "unknown_event", ["'sumbit'", "'submit'"]),
        ("", {}, UnknownEvent, "unknown_event", []),
        ("submit\0", {}, UnknownEvent, "unknown_event", []),
    ],
)
async def test_a_refusal_is_typed_and_changes_nothing(
    reviews: Machine, tenant: UUID, db: Database, event: str, data: dict[str, Any], error: Any, code: str, words: Any
) -> None:
    started = await reviews.start(tenant=tenant)
    before = await counts(db)
    with pytest.raises(error) as refused:
        await reviews.send(started.id, event, data=data, tenant=tenant)
    assert refused.value.code == code
    assert all(word in refused.value.detail for word in words)
    assert await counts(db) == before
    assert (await reviews.get(started.id, tenant=tenant)).seq == 0


async def test_an_illegal_transition_names_state_and_what_is_allowed(reviews: Machine, tenant: UUID) -> None:
    started = await reviews.start(tenant=tenant)
    await reviews.send(started.id, "submit", tenant=tenant)
    with pytest.raises(IllegalTransition) as refused:
        await reviews.send(started.id, "submit", tenant=tenant)
    assert (refused.value.state, refused.value.allowed) == ("waiting", ["remind", "approve", "reject", "expire"])
    problem = refused.value.problem()
    assert (problem["status"], problem["state"], problem["allowed"][0]) == (409, "waiting", "remind")


async def test_guards_choose_the_way_and_refuse_with_a_reason(reviews: Machine, tenant: UUID) -> None:
    async def waiting() -> UUID:
        return (await reviews.send((await reviews.start(tenant=tenant)).id, "submit", tenant=tenant)).id

    assert (await reviews.send(await waiting(), "approve", data={"amount": 100}, tenant=tenant)).state == "approved"
    id = await waiting()
    assert (await reviews.send(id, "approve", data={"amount": 101}, tenant=tenant)).state == "escalated"
    with pytest.raises(GuardRefused, match="say why") as refused:
        await reviews.send(id, "reject", tenant=tenant)
    assert (refused.value.code, refused.value.status) == ("guard_refused", 409)
    assert (await reviews.get(id, tenant=tenant)).state == "escalated"
    assert (await reviews.send(id, "reject", data={"reason": "no"}, tenant=tenant)).state == "rejected"


async def test_a_guard_gets_who_sends_and_the_open_transaction(
    machines: Machines, owner: Principal, db: Database
) -> None:
    seen: list[Any] = []

    async def last_look(instance: Instance, data: dict[str, Any], *, by: Principal, tx: Tx) -> bool:
        found = await tx.execute("select state, seq from backstay.machine_instance where id = %s", [instance.id])
        seen.append((by, await found.fetchone(), instance.state, instance.allowed, instance.data, data))
        return False

    class Note(BaseModel):
        at: datetime

    ways = [Transition("go", "a", "b", guard=last_look)]
    machine = machines.machine(Definition("m", ["a", State("b", final=True)], ways, "a"))
    started = await machine.start(data={"x": 1}, by=owner)
    with pytest.raises(GuardRefused, match="last_look says no"):
        await machine.send(started.id, "go", data=Note(at=datetime(2026, 1, 1, tzinfo=UTC)), by=owner)
    assert seen == [(owner, ("a", 0), "a", ["go"], {"x": 1}, {"at": "2026-01-01T00:00:00Z"})]


async def test_a_guard_that_fails_changes_nothing(machines: Machines, tenant: UUID, db: Database) -> None:
    def broken(instance: Instance, data: dict[str, Any]) -> bool:
        raise ZeroDivisionError

    machine = machines.machine(
        Definition("m", ["a", State("b", final=True)], [Transition("go", "a", "b", guard=broken)], "a")
    )
    started = await machine.start(tenant=tenant)
    before = await counts(db)
    with pytest.raises(ZeroDivisionError):
        await machine.send(started.id, "go", tenant=tenant)
    assert await counts(db) == before


async def test_of_two_that_send_at_once_one_wins_and_the_other_learns_the_state(
    reviews: Machine,
    tenant: UUID,
    db: Database,
    manual_clock: ManualClock,
    settings: Settings,
    vault: Vault,
    database_url: str,
) -> None:
    """Another process holds the row while the second sender waits for it; both have seen `draft`."""
    elsewhere, _ = process(db, manual_clock, settings, vault)
    started = await reviews.start(tenant=tenant)
    async with db.tenant_tx(tenant) as tx:
        await reviews.send(started.id, "submit", tx=tx)
        second = asyncio.create_task(elsewhere.send(started.id, "submit", tenant=tenant))
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            waits = "select exists (select from pg_locks where not granted)"
            async with asyncio.timeout(20):
                while (await (await admin.execute(waits)).fetchone()) != (True,):
                    assert not second.done(), second.result()
                    await asyncio.sleep(0.01)
    with pytest.raises(IllegalTransition) as refused:
        await second
    assert (refused.value.state, refused.value.allowed[0]) == ("waiting", "remind")
    assert [step.event for step in (await reviews.get(started.id, tenant=tenant)).history] == ["submit", None]


async def test_in_a_crowd_exactly_one_wins(reviews: Machine, tenant: UUID) -> None:
    for _ in range(5):
        started = await reviews.start(tenant=tenant)
        await reviews.send(started.id, "submit", tenant=tenant)
        events = ["approve", "expire", "approve", "reject", "expire", "reject"]
        answers = await asyncio.gather(
            *(reviews.send(started.id, event, data={"reason": "r"}, tenant=tenant) for event in events),
            return_exceptions=True,
        )
        won = [answer for answer in answers if isinstance(answer, Instance)]
        lost = [answer for answer in answers if isinstance(answer, IllegalTransition)]
        assert (len(won), len(lost)) == (1, 5), answers
        assert {error.state for error in lost} == {won[0].state}
        assert (await reviews.get(started.id, tenant=tenant)).seq == 2


async def test_a_number_makes_a_repeatable_event_happen_once(reviews: Machine, tenant: UUID) -> None:
    started = await reviews.start(tenant=tenant)
    await reviews.send(started.id, "submit", tenant=tenant)
    answers = await asyncio.gather(
        *(reviews.send(started.id, "remind", seq=1, tenant=tenant) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(answer, Instance) for answer in answers) == 1
    moved = [answer for answer in answers if isinstance(answer, InstanceMoved)]
    assert len(moved) == 3
    assert (moved[0].code, moved[0].state, "at number 2, not 1" in moved[0].detail) == (
        "machine_instance_moved",
        "waiting",
        True,
    )


async def test_a_key_starts_one_instance_for_each_machine_and_tenant(
    reviews: Machine, machines: Machines, tenant: UUID, other_tenant: UUID, db: Database
) -> None:
    answers = await asyncio.gather(*(reviews.start("race", tenant=tenant) for _ in range(6)))
    assert len({answer.id for answer in answers}) == 1
    await reviews.send("race", "submit", tenant=tenant)
    again = await reviews.start("race", data={"other": True}, tenant=tenant)
    assert (again.id, again.state, again.data, again.allowed[0]) == (answers[0].id, "waiting", {}, "remind")
    assert (await reviews.start("race", tenant=other_tenant)).id != again.id
    same = machines.machine(review(name="second"))
    assert (await same.start("race", tenant=tenant)).id != again.id
    assert (await counts(db))[0] == 3


async def test_a_row_id_serves_as_key(reviews: Machine, tenant: UUID) -> None:
    ticket = uuid4()
    started = await reviews.start(ticket, tenant=tenant)
    assert started.key == str(ticket)
    assert (await reviews.send(ticket, "submit", tenant=tenant)).id == started.id
    assert (await reviews.send(str(ticket), "remind", tenant=tenant)).id == started.id
    assert (await reviews.get(ticket, tenant=tenant)).seq == 2


async def test_another_tenants_instance_is_not_there(
    reviews: Machine, machines: Machines, owner: Principal, other_owner: Principal, db: Database
) -> None:
    started = await reviews.start("mine", by=owner)
    for which in (started.id, "mine"):
        with pytest.raises(InstanceNotFound):
            await reviews.send(which, "submit", by=other_owner)
        with pytest.raises(InstanceNotFound):
            await reviews.get(which, by=other_owner)
    with pytest.raises(InstanceNotFound):
        await machines.history(other_owner, started.id)
    assert await machines.list(other_owner) == []
    async with db.tenant_tx(other_owner.tenant) as tx:
        with pytest.raises(TenantMismatch):
            await reviews.send(started.id, "submit", by=owner, tx=tx)
    with pytest.raises(TenantMismatch):
        await reviews.send(started.id, "submit", by=other_owner, tenant=owner.tenant)
    assert (await reviews.get("mine", by=owner)).seq == 0


async def test_an_instance_of_another_machine_is_not_there(reviews: Machine, machines: Machines, tenant: UUID) -> None:
    other = machines.machine(review(name="other"))
    started = await other.start(tenant=tenant)
    with pytest.raises(InstanceNotFound):
        await reviews.send(started.id, "submit", tenant=tenant)
    with pytest.raises(InstanceNotFound):
        await reviews.get(started.id, tenant=tenant)
    with pytest.raises(InstanceNotFound):
        await reviews.send(new_id(), "submit", tenant=tenant)


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "x" * 501, "a\nb"])
async def test_a_key_that_is_no_key_is_refused(reviews: Machine, tenant: UUID, key: str) -> None:
    with pytest.raises(DataInvalid):
        await reviews.start(key, tenant=tenant)
    with pytest.raises((DataInvalid, InstanceNotFound)):
        await reviews.send(key, "submit", tenant=tenant)


@pytest.mark.parametrize("data", [{"a": "x\0y"}, {"\0": 1}, {"a": {1}}, {"a": "\ud800"}, {"a": 2**70}, {1: 2}])
async def test_data_that_cannot_be_stored_is_refused(reviews: Machine, tenant: UUID, data: dict[Any, Any]) -> None:
    with pytest.raises(DataInvalid):
        await reviews.start(data=data, tenant=tenant)
    started = await reviews.start(data={"a": "\\u0000 is no NUL"}, tenant=tenant)
    assert started.data == {"a": "\\u0000 is no NUL"}
    with pytest.raises(DataInvalid):
        await reviews.send(started.id, "submit", data=data, tenant=tenant)


async def test_nobody_knows_the_tenant(reviews: Machine) -> None:
    with pytest.raises(ConfigurationError, match="which tenant"):
        await reviews.start()
    with pytest.raises(ConfigurationError, match="which tenant"):
        await reviews.send(new_id(), "submit")


async def test_a_machine_that_begins_at_its_end(machines: Machines, tenant: UUID) -> None:
    still = machines.machine(Definition("still", [State("done", final=True)], [], "done"))
    started = await still.start(tenant=tenant)
    assert started.finished_at is not None
    with pytest.raises(BackstayError) as refused:
        await still.send(started.id, "go", tenant=tenant)
    assert refused.value.code == "unknown_event"


async def test_lists_are_filtered_and_go_on_after_the_last(
    reviews: Machine, machines: Machines, owner: Principal
) -> None:
    ids = [(await reviews.start(f"k{number}", by=owner)).id for number in range(5)]
    await reviews.send(ids[1], "submit", by=owner)
    assert [item.id for item in await machines.list(owner)] == ids[::-1]
    assert [item.id for item in await machines.list(owner, after=ids[3], limit=2)] == [ids[2], ids[1]]
    assert [item.id for item in await machines.list(owner, state="waiting")] == [ids[1]]
    assert [item.id for item in await machines.list(owner, machine="review", key="k4")] == [ids[4]]
    assert await machines.list(owner, machine="other") == []


async def test_a_deletion_leaves_the_audit_entries_and_its_timer_does_nothing(
    reviews: Machine, jobs: Jobs, tenant: UUID, db: Database, manual_clock: ManualClock
) -> None:
    started = await reviews.start("k", tenant=tenant)
    await reviews.send(started.id, "submit", tenant=tenant)
    await reviews.delete("k", tenant=tenant)
    with pytest.raises(InstanceNotFound):
        await reviews.delete("k", tenant=tenant)
    told = "select action from backstay.audit_entry where resource = %s order by id"
    assert await rows(db, told, f"machine_instance:{started.id}") == [
        ("machine.started",),
        ("machine.moved",),
        ("machine.deleted",),
    ]
    assert await rows(db, "select count(*) from backstay.outbox where type = 'machine.deleted'") == [(1,)]
    manual_clock.advance(2 * WAIT)
    await jobs.worker().run_until_idle()
    assert await rows(db, "select state from backstay.job_done where name = 'machine.timeout'") == [("completed",)]
