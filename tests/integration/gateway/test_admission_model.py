"""Admission, extension, settlement and sweep against a model of them that a child could check.

Hypothesis plays whatever order it likes, over two processes and a clock; after each step the tables say what the model
says.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as play

from backstay.audit import Audit
from backstay.auth import Auth
from backstay.events import Events
from backstay.gateway import BudgetExceeded, BudgetExists, LimitExists, RateLimited, Usage
from backstay.gateway.admission import Admission
from backstay.gateway.budgets import Budgets
from backstay.gateway.limits import Limits
from backstay.gateway.models import Admitted, Attempt, Reservation, Settlement, Tags
from backstay.gateway.sweeper import Sweeper
from backstay.gateway.terms import Period
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import Unavailable
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
LEASE = timedelta(seconds=30)
SUBJECTS = {"tenant": None, "feature": "f", "user": "ada"}
WINDOWS = {
    "minute": lambda now: now.replace(second=0),
    "day": lambda now: now.replace(hour=0, minute=0, second=0),
    "total": lambda now: datetime(1970, 1, 1, tzinfo=UTC),
}
cents = st.integers(0, 60).map(lambda cents: Decimal(cents) / 100)
tokens = st.integers(0, 60)
tags = st.tuples(st.sampled_from(["f", "g"]), st.sampled_from(["ada", None]))


@dataclass
class Bound:
    """A budget or a limit; `windows` are [spent, held] by start.

    `most` is what spent and held may come to: the highest amount there was, and what calls used that had been given up:
    their holds were released, and what they used is billed all the same.
    """

    id: Any
    scope: str
    unit: str
    amount: Decimal
    period: str
    hard: bool
    most: Decimal
    windows: dict[datetime, list[Decimal]] = field(default_factory=lambda: defaultdict(lambda: [Decimal(0)] * 2))

    def room_for(self, start: datetime, need: Decimal) -> bool:
        return not self.hard or sum(self.windows[start]) + need <= self.amount


@dataclass(eq=False)
class Call:
    """An open call and what it reserved."""

    admission: Admission
    admitted: Admitted
    usd: Decimal
    tokens: int
    held: dict[tuple[Any, datetime], str]
    given_up: bool = False


class Gate(RuleBasedStateMachine):
    """Two processes, one tenant, one clock."""

    database: Database
    audit: Audit
    auth: Auth
    runner: asyncio.Runner
    calls = Bundle("calls")

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock(START)
        self.bounds: dict[Any, Bound] = {}
        self.open: list[Call] = []
        slug = f"tenant-{new_id()}"
        tenant = self.run(self.auth.create_tenant(slug, slug))
        self.by = Principal(tenant.id, new_id(), "player", frozenset({"*"}))
        self.budgets = Budgets(self.database, self.clock, self.audit)
        self.limits = Limits(self.database, self.clock, self.audit)
        self.processes = [
            Admission(self.database, self.clock, self.audit, Events(self.database, self.clock), new_id(), LEASE)
            for _ in range(2)
        ]

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(
        unit=st.sampled_from(["usd", "requests", "tokens", "concurrency"]),
        scope=st.sampled_from(list(SUBJECTS)),
        amount=st.integers(0, 100),
        period=st.sampled_from(list(WINDOWS)),
        hard=st.booleans(),
    )
    def bound(self, unit: str, scope: str, amount: int, period: str, hard: bool) -> None:
        try:
            if unit == "usd":
                size = Decimal(amount) / 50
                made: Any = self.run(self.budgets.create(self.by, scope, SUBJECTS[scope], size, period, hard))
            else:
                size, hard = Decimal(amount if unit == "tokens" else amount // 10), True
                given = None if unit == "concurrency" else period
                made = self.run(self.limits.create(self.by, scope, SUBJECTS[scope], unit, int(size), given))
        except (BudgetExists, LimitExists):
            return
        self.bounds[made.id] = Bound(made.id, scope, unit, size, made.window, hard, size)

    @rule(data=st.data(), amount=st.integers(0, 100))
    def change(self, data: st.DataObject, amount: int) -> None:
        if self.bounds:
            bound = data.draw(st.sampled_from(list(self.bounds.values())))
            changed = (self.budgets if bound.unit == "usd" else self.limits).change(self.by, bound.id, amount)
            bound.amount = Decimal(self.run(changed).limit)
            bound.most = max(bound.most, bound.amount)

    @rule(data=st.data())
    def lift(self, data: st.DataObject) -> None:
        if self.bounds:
            bound = self.bounds.pop(data.draw(st.sampled_from(list(self.bounds))))
            self.run((self.budgets if bound.unit == "usd" else self.limits).delete(self.by, bound.id))

    @rule(seconds=st.sampled_from([1, 29, 60, 3600]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule(target=calls, process=st.integers(0, 1), usd=cents, tokens=tokens, tags=tags)
    def admit(self, process: int, usd: Decimal, tokens: int, tags: tuple[str, str | None]) -> Call | None:
        admission, reservation = self.processes[process], self.reservation(usd, tokens, tags)
        bounds = self.binding(reservation)
        needs = {"usd": usd, "tokens": Decimal(tokens), "requests": Decimal(1), "concurrency": Decimal(1)}
        full = {bound.unit for bound, start in bounds if not bound.room_for(start, needs[bound.unit])}
        try:
            admitted = self.run(_submitted(admission.admit, reservation))
        except BudgetExceeded:
            assert "usd" in full
            return None
        except RateLimited:
            assert full - {"usd"}
            return None
        assert not full
        return self.take(admission, admitted)

    @rule(wanted=st.lists(st.tuples(st.integers(0, 1), cents, tokens, tags), min_size=2, max_size=8))
    def admit_together(self, wanted: list[tuple[int, Decimal, int, tuple[str, str | None]]]) -> None:
        async def ask() -> list[Any]:
            asked = [self.processes[process].admit(self.reservation(*what)) for process, *what in wanted]
            return await asyncio.gather(*asked, return_exceptions=True)

        for (process, *_), result in zip(wanted, self.run(ask()), strict=True):
            if isinstance(result, Admitted):  # who came first is not known; that they fit is checked below
                self.take(self.processes[process], result)
            else:
                assert isinstance(result, BudgetExceeded | RateLimited)

    @rule(call=calls, usd=cents, tokens=tokens)
    def extend(self, call: Call | None, usd: Decimal, tokens: int) -> None:
        if call not in self.open or not (usd or tokens) or not call.held:
            return
        needs = {"usd": usd, "tokens": Decimal(tokens)}
        ours = [
            (self.bounds[id], start) for (id, start), unit in call.held.items() if id in self.bounds and needs.get(unit)
        ]
        full = {bound.unit for bound, start in ours if not bound.room_for(start, needs[bound.unit])}
        try:
            self.run(call.admission.extend(call.admitted, usd, tokens))
        except BudgetExceeded:
            assert "usd" in full
        except RateLimited:
            assert "tokens" in full
        except Unavailable:
            assert call.given_up
        else:
            assert not full
            assert not call.given_up
            call.usd, call.tokens = call.usd + usd, call.tokens + tokens
            for bound, start in ours:
                bound.windows[start][1] += needs[bound.unit]

    @rule(call=consumes(calls), part=st.integers(0, 4), twice=st.booleans())
    def settle(self, call: Call | None, part: int, twice: bool) -> None:
        if call in self.open:
            self.end(call, call.usd * part / 4, call.tokens * part // 4, 1 + twice)

    @rule()
    def sweep(self) -> None:
        """As another process an hour later, to which both of these are dead."""
        later = ManualClock(self.clock.now() + timedelta(hours=1))
        sweeper = Sweeper(self.database, later, self.audit, new_id(), LEASE)
        self.run(sweeper.sweep())
        for call in self.open:
            self.give_back(call)
            call.given_up = True
        for admission in self.processes:
            self.run(admission.beat())  # they live after all, and say so

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        for bound in self.bounds.values():
            for spent, held in bound.windows.values():
                assert held >= 0
                assert not bound.hard or spent + held <= bound.most, bound
        model = {
            (bound.id, start): tuple(figures)
            for bound in self.bounds.values()
            for start, figures in bound.windows.items()
            if any(figures)
        }
        assert self.run(self.figures()) == model

    def teardown(self) -> None:
        if not hasattr(self, "by"):
            return
        for call in list(self.open):
            self.end(call, call.usd, call.tokens)
        self.the_tables_say_what_the_model_says()
        assert not any(held for bound in self.bounds.values() for _, held in bound.windows.values())
        assert self.run(self.count("backstay.hold")) == 0
        for admission in self.processes:
            self.run(admission.stop())

    def reservation(self, usd: Decimal, tokens: int, tags: tuple[str, str | None]) -> Reservation:
        feature, user = tags
        about = Tags(self.by.tenant, self.by.id, self.by.name, feature, user)
        return Reservation(new_id(), about, "test", "m", "chat", False, usd, {}, self.clock.now(), tokens)

    def binding(self, call: Reservation) -> list[tuple[Bound, datetime]]:
        subjects = {(scope, subject or None) for _, scope, subject in call.scopes()}
        return [
            (bound, WINDOWS[bound.period](self.clock.now()))
            for bound in self.bounds.values()
            if (bound.scope, SUBJECTS[bound.scope]) in subjects
        ]

    def take(self, admission: Admission, admitted: Admitted) -> Call:
        reservation = admitted.reservation
        needs = {"usd": reservation.reserve, "tokens": Decimal(reservation.tokens), "concurrency": Decimal(1)}
        held = {}
        for bound, start in self.binding(reservation):
            if bound.unit == "requests":
                bound.windows[start][0] += 1
            else:
                bound.windows[start][1] += needs[bound.unit]
                held[bound.id, start] = bound.unit
        self.open.append(Call(admission, admitted, reservation.reserve, reservation.tokens, held))
        return self.open[-1]

    def give_back(self, call: Call) -> None:
        amounts = {"usd": call.usd, "tokens": Decimal(call.tokens), "concurrency": Decimal(1)}
        for (id, start), unit in call.held.items():
            if id in self.bounds and not call.given_up:
                self.bounds[id].windows[start][1] -= amounts[unit]

    def end(self, call: Call, usd: Decimal, tokens: int, times: int = 1) -> None:
        usage = Usage(tokens // 2, tokens - tokens // 2)
        end = Settlement(call.admitted, "ok", (Attempt("test", "m", "ok", usage, usd, 0.1),), {}, self.clock.now())
        for _ in range(times):
            self.run(_submitted(call.admission.settle, end))
        self.open.remove(call)
        self.give_back(call)
        used = {"usd": usd, "tokens": Decimal(tokens), "concurrency": Decimal(0)}
        for (id, start), unit in call.held.items():
            if id in self.bounds:
                self.bounds[id].windows[start][0] += used[unit]
                self.bounds[id].most += used[unit] if call.given_up else 0

    async def figures(self) -> dict[tuple[Any, datetime], tuple[Decimal, Decimal]]:
        query = (
            "select w.budget_id, w.starts_at, w.spent, w.held, (select coalesce(sum(h.amount), 0) from backstay.hold h"
            " where h.tenant_id = w.tenant_id and h.budget_id = w.budget_id and h.starts_at = w.starts_at)"
            " from backstay.budget_window w where w.tenant_id = %s"
        )
        async with self.database.system_tx() as tx:
            rows = await (await tx.execute(query, [self.by.tenant])).fetchall()
        for _, _, _, held, holds in rows:
            assert held == holds, "what a window holds is the sum of its holds"
        return {(id, start): (spent, held) for id, start, spent, held, _ in rows if spent or held}

    async def count(self, table: str) -> int:
        async with self.database.system_tx() as tx:
            query = f"select count(*) from {table} where tenant_id = %s"
            row = await (await tx.execute(query, [self.by.tenant])).fetchone()
        return int(row[0]) if row else 0


async def _submitted(submit: Any, item: Any) -> Any:
    return await submit(item)


def test_the_windows_of_the_model_are_those_of_the_periods() -> None:
    for name, start in WINDOWS.items():
        at = start(START + timedelta(days=3, seconds=29))
        assert (Period(name).resets_at(at) is None) == (name == "total")


def test_nothing_passes_its_bound_and_nothing_stays_held(database_url: str, settings: Settings, vault: Vault) -> None:
    with asyncio.Runner() as runner:
        database = Database(database_url, settings)
        runner.run(database.open())
        clock = ManualClock(START)
        audit = Audit(database, clock, vault)
        Gate.database, Gate.audit, Gate.runner = database, audit, runner
        Gate.auth = Auth(database, clock, vault, audit)
        try:
            play(
                Gate,
                settings=hypothesis.settings(
                    max_examples=40,
                    stateful_step_count=30,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
