"""Runs while everything around them fails at random: workers killed with `kill -9`, or frozen and thawed as zombies,
clocks that jump, and Postgres stopped, in order and at once, and started again.

At the end there is no unfinished run and no duplicate database effect, and nothing was called outside that was not
intended. `CRASH_SEED=…` repeats a seed, `BACKSTAY_CRASH_RUNS=2000` lets more runs go through more of it.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from backstay.audit import Audit
from backstay.auth import Auth
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.ids import new_id
from backstay.kernel.migrate import Migrations
from backstay.kernel.principal import Principal
from backstay.kernel.roles import bootstrap
from backstay.workflows import Workflows

from .crew import LEASE, OUTSIDE, Crew, crew
from .durable_worker import OUTSIDE_STEPS, TRANSACTIONS, WAITS, Parcel, build, settings

RUNS = int(os.environ.get("BACKSTAY_CRASH_RUNS", "100"))
KILLS, JUMPS, FREEZES, RESTARTS = RUNS // 7, RUNS // 15, 2 + RUNS // 75, 2 + RUNS // 75
LIMIT = 60.0 + RUNS  # seconds for everything to end
LANES, WORKERS = 8, 3


class Server:
    """A Postgres of the test's own, which it may stop."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self._embedded = embedded
        self.url, self.restarts = embedded.url, Counter[str]()

    def restart(self, how: str) -> None:
        """fast: connections end, everything is written. immediate: it recovers from its log, as after `kill -9`."""
        if how == "immediate":
            process = psutil.Process(self._embedded.pid)
            process.send_signal(signal.SIGQUIT)
            process.wait(30)
        else:
            self._embedded.stop()
        self._embedded.start()
        self.restarts[how] += 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("crash")) as embedded:
        asyncio.run(bootstrap(embedded.url))
        Migrations(embedded.url).up()
        with psycopg.connect(embedded.url, autocommit=True) as connection:
            connection.execute("create table public.effect (run uuid, step int)")
            connection.execute("grant all on public.effect to backstay_app, backstay_system")
        yield Server(embedded)


@pytest.mark.slow
async def test_runs_survive_kills_zombies_restarts_of_postgres_and_jumping_clocks(
    server: Server, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    chance, config = random.Random(seed), settings(server.url, LEASE)
    async with Database(server.url, config) as db:
        _, workflows, deliver = build(db, config)
        vault, clock = Vault.of(config), SystemClock()
        tenant = (await Auth(db, clock, vault, Audit(db, clock, vault)).create_tenant(f"t{seed}", "Acme")).id
        async with crew(server.url, tmp_path, WORKERS) as workers:
            boss = Principal(tenant, new_id(), "boss", frozenset({"*"}))
            for number in range(RUNS):
                run = await deliver.start(Parcel(number=number), tenant=tenant, key=str(number))
                if number % WAITS == 2:
                    await workflows.signals.send(run.id, "paid", number, by=boss)
            await trouble(server, db, workers, workflows, boss, chance)
        told = f"{workers.killed} killed, {workers.thawed} thawed as zombies, {workers.jumped} clocks set, "
        print(f"{told}{workers.gone} gone by themselves, Postgres restarted {dict(server.restarts)}, seed {seed}")
        cut = (workers.killed + workers.thawed + workers.gone + server.restarts.total() * WORKERS) * LANES
        await verify(db, tmp_path / OUTSIDE, cut, seed)


async def trouble(
    server: Server, db: Database, workers: Crew, workflows: Workflows, boss: Principal, chance: random.Random
) -> None:
    """Until every run has ended, and all of it has happened."""
    began = time.monotonic()
    while await unfinished(db) or workers.frozen or workers.killed < KILLS or server.restarts.total() < RESTARTS:
        left = await unfinished(db)
        assert time.monotonic() - began < LIMIT, f"{left} runs unfinished"
        await asyncio.sleep(chance.uniform(0.02, 0.2))
        workers.thaw()
        await workers.tend()
        await decide(workflows, boss)
        what = chance.choice(["kill", "kill", "kill", "jump", "freeze", "restart"])
        if what == "kill" and workers.killed < KILLS:
            await workers.kill(chance)
        elif what == "jump" and workers.jumped < JUMPS:
            await workers.set_clock(chance)
        elif what == "freeze" and len(workers.frozen) + workers.thawed < FREEZES:
            await workers.freeze(chance, LEASE * chance.uniform(1.2, 2.5))
        elif what == "restart" and server.restarts.total() < RESTARTS:
            await asyncio.to_thread(server.restart, chance.choice(["fast", "immediate"]))
    print(f"{RUNS} runs in {time.monotonic() - began:.1f} s", end=": ")


async def decide(workflows: Workflows, boss: Principal) -> None:
    """A person approves what lies in the inbox."""
    for asked in await workflows.approvals.list(boss, state="pending", limit=10):
        await workflows.approvals.approve(boss, asked.id)


async def unfinished(db: Database) -> int:
    return (await rows(db, "select count(*) from backstay.run where state in ('pending', 'running', 'waiting')"))[0][0]


async def verify(db: Database, outside: Path, cut: int, seed: int) -> None:
    """`cut`: how many attempts at most were cut off by what was done to workers and server."""
    states = dict(await rows(db, "select state, count(*) from backstay.run group by 1"))
    children = len(range(3, RUNS, WAITS))
    errors = await rows(db, "select workflow, error from backstay.run where error is not null")
    assert states == {"completed": RUNS + children}, f"{errors}, seed {seed}"
    effects = dict(
        await rows(db, "select n, count(*) from (select count(*) n from effect group by run, step) x group by 1")
    )
    assert effects == {1: RUNS * TRANSACTIONS + children}, f"effects by how often they happened: {effects}, seed {seed}"
    calls = Counter((await asyncio.to_thread(outside.read_text)).split())
    intents = dict(await rows(db, "select run_id || ':' || seq, attempt from backstay.step where kind = 'step'"))
    assert calls.keys() == intents.keys(), f"seed {seed}"
    assert len(calls) == RUNS * OUTSIDE_STEPS
    over = {key: (count, intents[key]) for key, count in calls.items() if count > intents[key]}
    assert not over, f"called more often than intended: {over}, seed {seed}"
    idle = sum(intents.values()) - calls.total()
    repeats = calls.total() - len(calls)
    print(f"outside: {len(calls)} steps, {repeats} calls repeated, {idle} intents cut off before their call")
    assert idle <= cut, f"intents without a call that nothing had cut off, seed {seed}"
    for table, what in [("outbox", "type"), ("audit_entry", "action")]:
        [(ended,)] = await rows(db, f"select count(*) from backstay.{table} where {what} = 'run.completed'")
        assert ended == RUNS + children, f"seed {seed}"
    [(decided,)] = await rows(db, "select count(*) from backstay.approval where state = 'approved'")
    assert decided == len(range(0, RUNS, WAITS)), f"seed {seed}"


async def rows(db: Database, query: str) -> list[tuple[int, ...]]:
    async with db.system_tx() as tx:
        await tx.execute("set local search_path = public")
        return await (await tx.execute(query)).fetchall()
