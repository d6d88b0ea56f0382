"""Any run through any sequence of crashes, retries, signals, decisions, time and cancellation, against a model.

`RUN_MODEL_SEED=…` plays the same stories again, `RUN_MODEL_STORIES=…` plays more of them.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import hypothesis
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs, RetryLater, upkeep
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database, Tx
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows import Run, RunEnded, RunHandle, Workflows

from .run_model import MINUTE, Instruction, Model, Program

STORIES = int(os.environ.get("RUN_MODEL_STORIES", "12"))
NAMES = st.sampled_from(["a", "b"])
INSTRUCTIONS = st.one_of(
    *[st.builds(Instruction, what=st.just("step"), number=st.integers(0, 2))] * 2,
    *[st.builds(Instruction, what=st.just("effect"))] * 2,
    st.builds(Instruction, what=st.just("signal"), name=NAMES),
    st.builds(Instruction, what=st.just("sleep"), number=st.integers(0, 3)),
    st.builds(Instruction, what=st.just("approve")),
)
HELP = st.just(("help",))  # brings what the run waits for
CRASH = st.tuples(st.just("crash"), st.integers(0, 1))
ACTIONS = st.one_of(
    HELP,
    HELP,
    CRASH,
    CRASH,
    st.tuples(st.just("send"), NAMES, st.integers(0, 9), st.integers(0, 5)),
    st.tuples(st.just("decide"), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["work"] * 4 + ["cancel"])),
)


class World:
    """Workflows, workers that may die, and a clock, on a database."""

    def __init__(self, db: Database, settings: Settings, vault: Vault, by: Principal) -> None:
        self.db, self.by, self.clock = db, by, ManualClock()
        self.jobs = Jobs(db, self.clock, settings)
        audit, events = Audit(db, self.clock, vault), Events(db, self.clock)
        self.workflows = Workflows(db, self.clock, self.jobs, audit, events)
        self.play = self.workflows.workflow(name="play")(self._play)
        self.calls: Counter[tuple[UUID, int]] = Counter()
        self.left: int | None = None  # a worker dies in the step after so many
        self.dying = asyncio.Event()
        self.deaths = self.moves = 0

    async def _play(self, run: Run, program: Program) -> list[Any]:
        got: list[Any] = []
        for number, instruction in enumerate(program.instructions):
            match instruction.what:
                case "step":
                    await run.step(self._outside, run.id, number, instruction.number)
                case "effect":
                    await run.transaction(self._inside, run.id, number)
                case "signal":
                    got.append(await run.signal(instruction.name, int))
                case "sleep":
                    await run.sleep(instruction.number * MINUTE)
                case "approve":
                    got.append((await run.approve({"number": number})).approved)
        return got

    async def _outside(self, run: UUID, number: int, failures: int) -> None:
        self.calls[run, number] += 1
        await self._maybe_die()
        async with self.db.tenant_tx(self.by.tenant) as tx:
            query = "select failures from backstay.step where run_id = %s and state = 'started' and kind = 'step'"
            [(failed,)] = await (await tx.execute(query, [run])).fetchall()
        if failed < failures:
            raise RetryLater("not yet", timedelta())

    async def _inside(self, tx: Tx, run: UUID, number: int) -> None:
        await tx.execute("insert into public.effect values (%s, %s)", [str(run), number])
        await self._maybe_die()

    async def _maybe_die(self) -> None:
        if self.left == 0:
            self.left = None
            self.dying.set()
            await asyncio.Event().wait()
        if self.left is not None:
            self.left -= 1

    async def crash(self, after: int) -> None:
        """A worker that dies in the middle of a step, unless there is too little to do."""
        self.left = after
        self.dying.clear()
        idle = asyncio.create_task(self.jobs.worker().run_until_idle())
        dying = asyncio.create_task(self.dying.wait())
        await asyncio.wait({idle, dying}, return_when=asyncio.FIRST_COMPLETED)
        self.left = None
        for task in (idle, dying):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self.dying.is_set():
            self.deaths += 1
            async with self.db.system_tx() as tx:
                await tx.execute("delete from backstay.worker")
            await upkeep.rescue(self.db, self.clock.now())

    async def tell(self, program: list[Instruction], actions: list[tuple[Any, ...]]) -> None:
        handle = await self.play.start(Program(instructions=program), by=self.by)
        model = Model(program, self.clock.now())
        for action in [("crash", len(actions) % 3), *actions, ("work",)]:
            await self._act(handle, model, action)
        self.moves += model.next

    async def _act(self, handle: RunHandle, model: Model, action: tuple[Any, ...]) -> None:
        """Does it; then a worker goes as far as it can, and the tables say what the model says."""
        await self._bring(handle, model, model.needs if action[0] in ("help", "crash") else action)
        if action[0] in ("send", "decide"):
            return  # the worker comes later, to more than one of these
        if action[0] == "crash":
            await self.crash(action[1])
        await self.jobs.worker().run_until_idle()
        model.work()
        await self._compare(handle, model)

    async def _bring(self, handle: RunHandle, model: Model, action: tuple[Any, ...]) -> None:
        match action:
            case ("send", name, number, key):
                try:
                    await self.workflows.send_signal(handle.id, name, number, by=self.by, key=str(key))
                    took = True
                except RunEnded:
                    took = False
                assert took == model.send(name, number, str(key))
            case ("decide", approved):
                await self._decide(handle, model, approved)
            case ("wait", minutes):
                model.now = self.clock.advance(minutes * MINUTE)
            case ("cancel",):
                try:
                    await handle.cancel()
                    assert not model.ended
                    model.state = "cancelled"
                except RunEnded:
                    assert model.ended

    async def _decide(self, handle: RunHandle, model: Model, approved: bool) -> None:
        pending = await self.workflows.approvals.list(self.by, run=handle.id)
        assert len(pending) == int(model.asks)
        for item in pending:
            if approved:
                await self.workflows.approvals.approve(self.by, item.id)
            else:
                await self.workflows.approvals.deny(self.by, item.id, reason="no")
            model.verdict = approved

    async def _compare(self, handle: RunHandle, model: Model) -> None:
        run = await handle.get()
        assert run.state == model.state, run
        if model.state == "completed":
            assert run.output == model.got
        done = {number for number in range(model.next) if model.program[number].what == "effect"}
        assert await self._effects(handle.id) == dict.fromkeys(done, 1)
        for step in run.steps:
            if step.kind == "step" and step.state == "completed":
                assert 1 <= self.calls[handle.id, step.seq] <= step.attempt
        async with self.db.system_tx() as tx:
            query = "select state, run_at from backstay.job where unique_key = %s"
            jobs = await (await tx.execute(query, [str(handle.id)])).fetchall()
        assert jobs == ([("scheduled", model.due)] if model.state == "waiting" and model.due else [])

    async def _effects(self, run: UUID) -> dict[int, int]:
        async with self.db.system_tx() as tx:
            query = "select step, count(*) from public.effect where run = %s group by 1"
            return dict(await (await tx.execute(query, [str(run)])).fetchall())


def test_a_run_goes_where_the_model_goes(
    settings: Settings, vault: Vault, database_url: str, owner: Principal, effects: None
) -> None:
    """The event loop stands still while hypothesis makes up the next story."""
    seed = int(os.environ.get("RUN_MODEL_SEED") or random.randrange(2**32))
    print(f"RUN_MODEL_SEED={seed}")

    async def opened() -> World:
        db = Database(database_url, settings)
        await db.open()
        return World(db, settings, vault, owner)

    with asyncio.Runner() as runner:
        world = runner.run(opened())

        @hypothesis.seed(seed)
        @bounds(max_examples=STORIES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            program=st.lists(INSTRUCTIONS, min_size=3, max_size=6), actions=st.lists(ACTIONS, min_size=6, max_size=12)
        )
        def check(program: list[Instruction], actions: list[tuple[Any, ...]]) -> None:
            runner.run(world.tell(program, actions))

        try:
            check()
        finally:
            runner.run(world.db.close())
    print(f"{world.moves} instructions done, {world.deaths} workers died")
    assert world.moves > STORIES, "hypothesis played with runs that hardly move"
    assert world.deaths, "nobody died"
