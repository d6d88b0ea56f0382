"""Any machine and any sequence of events against a model that a child could check: a dict of steps and a list."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from backstay.audit import Audit
from backstay.auth import Auth
from backstay.jobs import Jobs
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.ids import new_id
from backstay.kernel.settings import Settings
from backstay.workflows.machines import (
    Definition,
    IllegalTransition,
    Machine,
    Machines,
    State,
    Transition,
    UnknownEvent,
)

from .conftest import process, rows

EVENTS = ["a", "b", "time"]
WAIT = timedelta(minutes=1)
names = st.sampled_from(["s0", "s1", "s2", "s3", "s4"])
ways = st.dictionaries(st.tuples(names, st.sampled_from(EVENTS)), names, min_size=5, max_size=15)


@dataclass
class Plan:
    """What hypothesis makes up: steps by (state, event), which states are final, which time out, and what is sent."""

    steps: dict[tuple[str, str], str]
    final: set[str]
    timed: set[str]
    sent: list[str]  # "wait" lets the longest timeout pass

    @property
    def states(self) -> list[str]:
        found = {"s0", *(source for source, _ in self.steps), *self.steps.values()}
        return sorted(found)

    def definition(self, name: str) -> Definition:
        return Definition(
            name,
            [
                State(state, state in self.final, *((WAIT, "time") if state in self.timed else ()))
                for state in self.states
            ],
            [Transition(event, source, to) for (source, event), to in self.steps.items()],
            "s0",
        )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Sometimes with states that cannot be reached."""
    steps = draw(ways) | {("s0", draw(st.sampled_from(EVENTS))): draw(names)}
    if draw(st.integers(0, 9)):
        reached = reachable(steps)
        steps = {(source, event): to for (source, event), to in steps.items() if source in reached}
    final = draw(st.sets(names)) - {source for source, _ in steps}
    timed = {source for source, event in steps if event == "time"} - draw(st.sets(names, max_size=2))
    return Plan(
        steps, final, timed, draw(st.lists(st.sampled_from([*EVENTS, "wait", "unknown"]), min_size=3, max_size=15))
    )


def reachable(steps: dict[tuple[str, str], str]) -> set[str]:
    found, before = {"s0"}, set[str]()
    while found != before:
        before = set(found)
        found |= {to for (source, _), to in steps.items() if source in found}
    return found


@dataclass
class Model:
    """The machine as a child would play it."""

    plan: Plan
    now: Any
    state: str = "s0"
    due: Any = None
    history: list[tuple[str | None, str | None, str]] = field(default_factory=lambda: [(None, None, "s0")])

    def __post_init__(self) -> None:
        self._set_timer()

    def _set_timer(self) -> None:
        self.due = self.now + WAIT if self.state in self.plan.timed else None

    def send(self, event: str) -> bool:
        to = self.plan.steps.get((self.state, event))
        if to is None:
            return False
        self.history.append((event, self.state, to))
        self.state = to
        self._set_timer()
        return True


class World:
    """Machines, a worker and a clock on a database. `moves` counts what the machines did."""

    def __init__(self, db: Database, clock: ManualClock, made: tuple[Machines, Jobs], tenant: UUID) -> None:
        self.db, self.clock, self.tenant, self.moves = db, clock, tenant, 0
        self.machines, self.jobs = made

    async def play(self, plan: Plan) -> None:
        name = f"m-{new_id()}"
        if set(plan.states) - reachable(plan.steps):
            with pytest.raises(ConfigurationError, match="no way leads"):
                plan.definition(name)
            return
        machine = self.machines.machine(plan.definition(name))
        started = await machine.start(tenant=self.tenant)
        model = Model(plan, self.clock.now())
        for event in plan.sent:
            before = model.state
            if event == "wait":
                model.now = self.clock.advance(WAIT)
                if model.due is not None:  # every timer that is set is due by now
                    assert model.send("time")
                await self.jobs.worker().run_until_idle()
            else:
                took = await self._accepted(machine, started.id, event)
                assert took == model.send(event), (event, before)
            await self._compare(machine, started.id, model)
        self.moves += len(model.history) - 1

    async def _accepted(self, machine: Machine, id: UUID, event: str) -> bool:
        try:
            await machine.send(id, event, tenant=self.tenant)
        except (IllegalTransition, UnknownEvent):
            return False
        return True

    async def _compare(self, machine: Machine, id: UUID, model: Model) -> None:
        found, plan = await machine.get(id, tenant=self.tenant), model.plan
        assert (found.state, found.due_at) == (model.state, model.due)
        assert set(found.allowed) == {known for source, known in plan.steps if source == model.state}
        assert (found.finished_at is not None) == (model.state in plan.final)
        assert [(step.event, step.from_state, step.to_state) for step in found.history[::-1]] == model.history
        told = "select payload ->> 'to' from backstay.outbox where payload ->> 'instance' = %s order by id"
        assert [state for (state,) in await rows(self.db, told, str(id))] == [to for _, _, to in model.history]


def test_an_instance_goes_where_the_model_goes(settings: Settings, vault: Vault, database_url: str) -> None:
    """The event loop stands still while hypothesis makes up the next machine."""
    clock = ManualClock()

    async def opened() -> World:
        db = Database(database_url, settings)
        await db.open()
        made = process(db, clock, settings, vault)
        tenant = await Auth(db, clock, vault, Audit(db, clock, vault)).create_tenant("acme", "Acme")
        return World(db, clock, made, tenant.id)

    with asyncio.Runner() as runner:
        world = runner.run(opened())

        @bounds(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(plan=plans())
        def check(plan: Plan) -> None:
            runner.run(world.play(plan))

        try:
            check()
        finally:
            runner.run(world.db.close())
    assert world.moves > 25, "hypothesis played with machines that hardly move"
