"""Definitions in the database: registered once, never changed; instances stay on the version they began with."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from backstay.app import App
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows.machines import (
    CodeMissing,
    Machine,
    MachineNotFound,
    Machines,
    State,
    Transition,
    UnknownEvent,
)

from .conftest import process, review, rows

MORE = [*review().transitions, Transition("withdraw", "waiting", "draft")]


@pytest.fixture
def elsewhere(db: Database, manual_clock: ManualClock, settings: Settings, vault: Vault) -> Machines:
    """Another process, with no code yet."""
    return process(db, manual_clock, settings, vault)[0]


async def test_a_definition_is_compiled_to_a_table_of_legal_steps(
    reviews: Machine, machines: Machines, db: Database
) -> None:
    await machines.register()
    found = await rows(
        db, "select from_state, event, to_state from backstay.machine_rule where machine = 'review' and version = '1'"
    )
    assert sorted(found) == sorted({(rule.source, rule.event, rule.to) for rule in reviews.definition.rules})
    finals = await rows(db, "select name from backstay.machine_state where final order by 1")
    assert finals == [("approved",), ("expired",), ("rejected",)]


@pytest.mark.parametrize(
    "changes",
    [
        {"transitions": MORE},
        {"transitions": [*review().transitions[:1], *review().transitions[2:]]},
        {
            "states": [
                *review().states[:1],
                State("waiting", timeout=timedelta(5), on_timeout="expire"),
                *review().states[2:],
            ]
        },
    ],
    ids=["a way more", "a way less", "another timeout"],
)
async def test_a_change_under_the_same_version_is_refused(
    reviews: Machine, machines: Machines, elsewhere: Machines, tenant: UUID, db: Database, changes: dict[str, Any]
) -> None:
    await machines.register()
    before = await rows(db, "select * from backstay.machine_rule order by 1, 2, 3, 4, 5")
    changed = elsewhere.machine(review(**changes))
    for act in (elsewhere.register(), changed.start(tenant=tenant), elsewhere.register()):
        with pytest.raises(ConfigurationError, match=r"'review' was registered in version '1'.*new version"):
            await act
    assert await rows(db, "select * from backstay.machine_rule order by 1, 2, 3, 4, 5") == before
    assert await rows(db, "select * from backstay.machine_instance") == []


async def test_a_refused_definition_stops_its_own_machine_and_no_other(
    reviews: Machine, elsewhere: Machines, owner: Principal
) -> None:
    started = await reviews.start(by=owner)
    other = elsewhere.machine(review(name="other"))
    elsewhere.machine(review(transitions=MORE))
    assert (await other.send((await other.start(by=owner)).id, "submit", by=owner)).state == "waiting"
    with pytest.raises(ConfigurationError, match="new version"):
        await elsewhere.send(started.id, "submit", by=owner)
    assert (await reviews.get(started.id, by=owner)).state == "draft"


async def test_an_app_with_a_changed_machine_does_not_start(
    app: App, settings: Settings, reviews: Machine, machines: Machines
) -> None:
    await machines.register()
    unchanged, changed = App(settings), App(settings)
    unchanged.machine(review())
    async with unchanged:
        pass
    changed.machine(review(transitions=MORE))
    with pytest.raises(ConfigurationError, match="new version"):
        async with changed:
            pass


async def test_an_app_registers_its_machines_when_it_starts(settings: Settings, db: Database) -> None:
    starting = App(settings)
    starting.machine(review())
    async with starting:
        assert await rows(db, "select name, version, initial from backstay.machine") == [("review", "1", "draft")]


async def test_many_processes_register_at_once(
    db: Database, manual_clock: ManualClock, settings: Settings, vault: Vault
) -> None:
    crowd = [process(db, manual_clock, settings, vault)[0] for _ in range(6)]
    for machines in crowd:
        machines.machine(review())
    await asyncio.gather(*(machines.register() for machines in crowd))
    assert await rows(db, "select count(*) from backstay.machine") == [(1,)]


async def test_an_instance_stays_on_the_version_it_began_with(
    reviews: Machine, machines: Machines, owner: Principal, database_url: str
) -> None:
    old = await reviews.start("old", by=owner)
    newer = machines.machine(review("2", transitions=MORE))
    new = await newer.start("new", by=owner)
    assert (old.version, new.version) == ("1", "2")
    for machine in (reviews, newer):  # either sends to both
        assert "withdraw" not in (await machine.get("old", by=owner)).allowed
    await newer.send("old", "submit", by=owner)
    await reviews.send("new", "submit", by=owner)
    assert (await reviews.send("new", "withdraw", by=owner)).state == "draft"
    with pytest.raises(UnknownEvent):
        await newer.send("old", "withdraw", by=owner)
    async with await psycopg.AsyncConnection.connect(database_url) as admin:
        with pytest.raises(psycopg.errors.CheckViolation):
            await admin.execute("update backstay.machine_instance set state = 'draft', seq = seq + 1 where key = 'old'")


async def test_a_version_is_declared_once_in_a_process(reviews: Machine, machines: Machines) -> None:
    with pytest.raises(ConfigurationError, match="declared twice in version '1'"):
        machines.machine(review())


async def test_by_name_the_newest_is_started(
    reviews: Machine, machines: Machines, elsewhere: Machines, owner: Principal, manual_clock: ManualClock
) -> None:
    await machines.register()
    manual_clock.advance(timedelta(seconds=1))
    machines.machine(review("2", transitions=MORE))
    assert (await machines.start("review", by=owner)).version == "2"
    assert (await elsewhere.start("review", by=owner)).version == "2"
    elsewhere.machine(review())  # a release that was taken back knows only this
    assert (await elsewhere.start("review", by=owner)).version == "1"
    with pytest.raises(MachineNotFound, match="'nothing'"):
        await machines.start("nothing", by=owner)


async def test_without_the_code_only_what_no_guard_decides_can_be_sent(
    reviews: Machine, elsewhere: Machines, owner: Principal
) -> None:
    started = await reviews.start(by=owner)
    waiting = await elsewhere.send(started.id, "submit", by=owner)
    assert (waiting.state, waiting.allowed) == ("waiting", ["remind", "approve", "reject", "expire"])
    with pytest.raises(CodeMissing, match="is_small"):
        await elsewhere.send(started.id, "approve", by=owner)
    assert (await reviews.send(started.id, "approve", by=owner)).state == "approved"


async def test_definitions_are_listed_with_their_diagram(
    reviews: Machine, machines: Machines, elsewhere: Machines, owner: Principal
) -> None:
    machines.machine(review("2", transitions=MORE))
    machines.machine(review(name="another"))
    await machines.register()
    for each in (machines, elsewhere):
        found = await each.definitions(owner)
        assert [(item.name, item.version) for item in found] == [("another", "1"), ("review", "1"), ("review", "2")]
        assert found[1].mermaid == reviews.mermaid
        assert [item.version for item in await each.definitions(owner, name="review", limit=1)] == ["1"]
        assert [item.version for item in await each.definitions(owner, after=("review", "1"))] == ["2"]
    assert (await elsewhere.definition(owner, "review", "1")).document == reviews.definition.document
    with pytest.raises(MachineNotFound):
        await elsewhere.definition(owner, "review", "3")
