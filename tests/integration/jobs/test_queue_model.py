"""The real queue against a model of it: Hypothesis makes up what two workers, two tenants and an operator do.

After each step the tables say what the model says: no job is lost or there twice, and a key waits once and runs once.
A failure prints the shortest story that leads to it. `QUEUE_MODEL_SEED=…` plays the same stories again,
`QUEUE_MODEL_STORIES=…` plays more of them.
"""

import asyncio
import os
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import hypothesis
import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.stateful import run_state_machine_as_test as play

from backstay.jobs import (
    BulkCancel,
    BulkRetry,
    Cancel,
    Discard,
    JobContext,
    JobFinished,
    JobNotFound,
    JobNotRetryable,
    Jobs,
    Retry,
    RetryLater,
    Snooze,
    upkeep,
)
from backstay.jobs.models import Claimed
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

from .by_hand import Hand
from .conftest import Note
from .queue_model import FINISHED, WAITING, Entry, Model

STORIES, STEPS = int(os.environ.get("QUEUE_MODEL_STORIES", "8")), 12
NAMES = ["play", "work"]
RETRY = Retry(max_attempts=3, base=timedelta(seconds=20), max_rescues=2)
ROWS = """
select tenant_id, id, queue, name, unique_key, state, priority, run_at, attempt, rescues,
       case state when 'running' then fence end, state = 'running' and cancelling
from backstay.job where tenant_id = any(%(tenants)s)
union all
select tenant_id, id, queue, name, unique_key, state, priority, run_at, attempt, rescues, null, false
from backstay.job_done where tenant_id = any(%(tenants)s)
"""
DOUBLES = """
select unique_key, state = 'running' from backstay.job
where tenant_id = any(%(tenants)s) and unique_key is not null
group by tenant_id, name, unique_key, state = 'running' having count(*) > 1
"""

seldom = st.sampled_from([False] * 9 + [True])
either = st.integers(0, 1)  # of two tenants, queues or workers
any_one = st.integers(0, 60)  # of those that there are
retried = st.sets(st.sampled_from(["discarded", "cancelled", "retryable"]), min_size=1)
cancelled = st.sets(st.sampled_from(["scheduled", "available", "retryable", "running"]), min_size=1)
outcomes = st.sampled_from(["complete", "complete", "fail", "later", "snooze", "cancel", "discard", "write", "write"])


def move(name: str, /, often: int = 1, **how: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Any]]:
    return [st.tuples(st.just(name), st.fixed_dictionaries(how)) for _ in range(often)]


MOVES = st.one_of(
    *move(
        "enqueue",
        often=4,
        tenant=either,
        queue=either,
        name=st.sampled_from(NAMES),
        wanted=st.lists(st.sampled_from([None, "k", "l"]), min_size=1, max_size=4),
        delay=st.sampled_from([0, 0, 0, 30, 120]),
        priority=st.sampled_from([0, 0, -1, 1]),
        large=seldom,
        fails=seldom,
    ),
    *move("claim", often=5, worker=either, room=st.integers(1, 6)),
    *move("end", often=9, which=any_one, how=outcomes, flush=st.booleans(), again=st.booleans()),
    *move("flush", worker=either),
    *move("lose_the_answer", which=any_one),
    *move("die", worker=either, how=st.sampled_from(["silent", "leaves"])),
    *move("retry", often=2, which=any_one, stranger=seldom),
    *move("cancel", often=2, which=any_one, stranger=seldom),
    *move("retry_many", tenant=either, queue=st.sampled_from([None, 0, 1]), states=retried),
    *move("cancel_many", tenant=either, queue=st.sampled_from([None, 0, 1]), states=cancelled),
    *move("pause_or_resume", queue=either, pause=st.booleans()),
    *move("limit", queue=either, most=st.sampled_from([None, None, 0, 1, 2])),
    *move("time_passes", seconds=st.sampled_from([1, 30, 60])),
    *move("promote", often=2),
)


@dataclass(frozen=True, eq=False)
class Held:
    """A claim, and which worker made it in which of its lives."""

    worker: int
    life: int
    claim: Claimed

    def __repr__(self) -> str:
        return f"<claim {self.claim.fence} of worker {self.worker}>"


class Queue(RuleBasedStateMachine):
    """Two workers, two tenants, two queues, one clock."""

    database: Database
    settings: Settings
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.model = Model(self.clock.now())
        self.jobs = Jobs(self.database, self.clock, self.settings)
        for name in NAMES:
            self.jobs.handler(name, self.handle, Note, retry=RETRY)
        self.people = [Principal(new_id(), new_id(), name, frozenset({"*"})) for name in ("ada", "bob")]
        self.tenants = [person.tenant for person in self.people]
        self.queues = [f"{new_id()}-{letter}" for letter in "ab"]
        self.entries: list[Entry] = []
        self.claims: list[Held] = []
        self.script: dict[int, str] = {}
        self.written = 0
        self.pending: list[list[tuple[Claimed, Any]]] = [[], []]
        self.lives, self.holding = [0, 0], [set[int](), set[int]()]

    @initialize()
    def begin(self) -> None:
        self.hands = [self.run(self.hire()) for _ in range(2)]
        for place in range(2):
            self.enqueue(place, place, "play", [None, "k", None], 0, 0, large=False, fails=False)

    @rule(moves=st.lists(MOVES, min_size=5, max_size=10))
    def then(self, moves: list[tuple[str, dict[str, Any]]]) -> None:
        # One rule for all: of several, Hypothesis leaves out half in each story, and then little happens in most.
        for name, how in moves:
            getattr(self, name)(**how)
            self.the_tables_say_what_the_model_says()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def hire(self) -> Hand:
        hand = Hand(self.database, self.jobs, self.queues)
        await hand.join()
        return hand

    async def handle(self, context: JobContext, note: Note) -> None:
        assert note.text.strip() == self.model.jobs[context.job].text, "a job got another one's input"
        match self.script[context.fence]:
            case "fail":
                raise ValueError("it failed")
            case "later":
                raise RetryLater("it failed", timedelta(seconds=40))
            case "snooze":
                raise Snooze(timedelta(seconds=50))
            case "cancel":
                raise Cancel("not wanted")
            case "discard":
                raise Discard("hopeless")
            case "write":
                async with context.transaction():
                    self.written += 1

    # -- what users do ----------------------------------------------------------------------------------------------

    def enqueue(
        self,
        tenant: int,
        queue: int,
        name: str,
        wanted: list[str | None],
        delay: int,
        priority: int,
        large: bool,
        fails: bool,
    ) -> None:
        """In a transaction of the caller's, which may roll back."""
        at = self.clock.now() + timedelta(seconds=delay)
        texts = [f"{len(self.model.jobs)}.{number}" for number, _ in enumerate(wanted)]
        notes = [Note(text=text + " " * 70_000 * large) for text in texts]
        place = {"tenant": self.tenants[tenant], "queue": self.queues[queue], "at": at, "priority": priority}

        async def asked() -> list[Any]:
            async with self.database.tenant_tx(self.tenants[tenant]) as tx:
                ids = await self.jobs.enqueue_many(name, list(zip(wanted, notes, strict=True)), **place, tx=tx)
                if fails:
                    raise LookupError
                return ids

        if fails:
            self.ask(asked(), LookupError)
            return
        ids = self.run(asked())
        state = "scheduled" if delay else "available"
        for id, key, text in zip(ids, wanted, texts, strict=True):
            new = Entry(self.tenants[tenant], id, self.queues[queue], name, key, text, state, priority, at)
            self.entries.append(self.model.enqueue(new))
            assert self.entries[-1].id == id, "the job that stands is another one"

    def retry(self, which: int, stranger: bool) -> None:
        if not self.entries:
            return
        job = self.entries[which % len(self.entries)]
        by = self.people[self.tenants.index(job.tenant) ^ stranger]
        if stranger:
            expected: Any = JobNotFound
        elif job.state in {"cancelled", "discarded"}:
            expected = None if self.model.revive(job) else JobNotRetryable
        elif job.state in {"scheduled", "retryable"}:
            expected = self.model.hasten(job)
        else:
            expected = JobNotRetryable
        self.ask(self.jobs.retry(by, job.id), expected)

    def cancel(self, which: int, stranger: bool) -> None:
        if not self.entries:
            return
        job = self.entries[which % len(self.entries)]
        by = self.people[self.tenants.index(job.tenant) ^ stranger]
        expected: Any = None
        if stranger:
            expected = JobNotFound
        elif job.state in WAITING:
            job.state = "cancelled"
        elif job.state == "running":
            job.cancelling = True
        else:
            expected = JobFinished
        self.ask(self.jobs.cancel(by, job.id), expected)

    def retry_many(self, tenant: int, queue: int | None, states: set[Any]) -> None:
        place = None if queue is None else self.queues[queue]
        found = [self.model.of(self.tenants[tenant], states & kind, place) for kind in (FINISHED, WAITING)]
        revived = [self.model.revive(job) for job in found[0]]
        for job in found[1]:
            self.model.hasten(job)
        result = self.run(self.jobs.retry_many(self.people[tenant], BulkRetry(states=sorted(states), queue=place)))
        assert (result.changed, result.skipped) == (sum(revived) + len(found[1]), revived.count(False))

    def cancel_many(self, tenant: int, queue: int | None, states: set[Any]) -> None:
        place = None if queue is None else self.queues[queue]
        waiting, running = (
            self.model.of(self.tenants[tenant], states & kind, place) for kind in (WAITING, {"running"})
        )
        asked = [job for job in running if not job.cancelling]
        for job in waiting:
            job.state = "cancelled"
        for job in running:
            job.cancelling = True
        result = self.run(self.jobs.cancel_many(self.people[tenant], BulkCancel(states=sorted(states), queue=place)))
        assert (result.changed, result.asked) == (len(waiting), len(asked))

    # -- what the operator and the clock do -------------------------------------------------------------------------

    def pause_or_resume(self, queue: int, pause: bool) -> None:
        name = self.queues[queue]
        self.run((self.jobs.pause if pause else self.jobs.resume)(name))
        (self.model.paused.add if pause else self.model.paused.discard)(name)

    def limit(self, queue: int, most: int | None) -> None:
        self.run(self.jobs.limit(self.queues[queue], most))
        self.model.limits.pop(self.queues[queue], None)
        if most is not None:
            self.model.limits[self.queues[queue]] = most

    def time_passes(self, seconds: int) -> None:
        self.model.now = self.clock.advance(timedelta(seconds=seconds))

    def promote(self) -> None:
        self.run(upkeep.promote(self.database, self.clock.now()))
        self.model.promote()

    # -- what workers do --------------------------------------------------------------------------------------------

    def claim(self, worker: int, room: int) -> None:
        hand = self.hands[worker]
        if not hand.alive:
            self.run(hand.join())
            self.lives[worker], self.holding[worker] = self.lives[worker] + 1, set()
        settled, completed = self.split(worker)
        for claim, verdict in settled:
            self.model.settle(claim, verdict.state, verdict.run_at, verdict.counted)
        ready = self.model.ready(self.queues)
        expected = self.model.claimable(ready, room)
        for claim, _ in completed:
            self.model.complete(claim)
        claimed: list[Claimed] = self.run(hand.claim(room))
        self.check_choice(ready, claimed, expected)
        for claim in claimed:
            self.model.claim(claim)
            assert claim.attempt == self.model.jobs[claim.id].attempt
            assert claim.fence not in self.script, "a fence was used twice"
            self.script[claim.fence] = "complete"
        self.holding[worker] |= {claim.fence for claim in claimed}
        self.claims += [Held(worker, self.lives[worker], claim) for claim in claimed]

    def check_choice(self, ready: list[Entry], claimed: list[Claimed], expected: int) -> None:
        """As many as there was room for; of a tenant in a queue the highest priority and then the oldest."""
        assert len(claimed) == expected
        chosen = {claim.id for claim in claimed}
        assert chosen <= {job.id for job in ready}
        passed: set[tuple[Any, str]] = set()
        for job in ready:
            if job.id not in chosen:
                passed.add((job.tenant, job.queue))
            assert job.id not in chosen or (job.tenant, job.queue) not in passed, "a later job overtook"

    def end(self, which: int, how: str, flush: bool, again: bool) -> None:
        """`again`: the answer to the worker's write is lost, so it writes the same once more."""
        if not self.claims:
            return
        held = self.claims.pop(which % len(self.claims))
        self.script[held.claim.fence] = how
        stood, written = self.model.held_by(held.claim), self.written
        verdict = self.run(self.hands[held.worker].run(held.claim))
        hopeless = held.claim.rescues > RETRY.max_rescues
        if how == "write" and not hopeless:
            assert (self.written > written) == (stood is not None), (
                "a claim that is over wrote, or one that stands did not"
            )
            if stood is None:
                return  # the lane knows that it lost the job: there is nothing to report
        self.check_verdict(held.claim, "discard" if hopeless else how, verdict)
        self.pending[held.worker].append((held.claim, verdict))
        if flush:
            self.flush(held.worker)
        if flush and again:
            self.hands[held.worker].report(held.claim, verdict)
            self.run(self.hands[held.worker].write())

    def check_verdict(self, claim: Claimed, how: str, verdict: Any) -> None:
        if how in {"complete", "write"}:
            assert verdict is None
            return
        wait = (verdict.run_at - self.clock.now()).total_seconds()
        last = claim.attempt >= RETRY.max_attempts
        failed = "discarded" if last else "retryable"
        state = {"fail": failed, "later": failed, "snooze": "scheduled", "cancel": "cancelled", "discard": "discarded"}
        assert verdict.state == state[how]
        assert verdict.counted == (how != "snooze")
        if how == "snooze" or (how == "later" and not last):
            assert wait == {"snooze": 50, "later": 40}[how]
        elif how == "fail":
            assert 0 <= wait <= 20 * 2 ** (claim.attempt - 1)

    def flush(self, worker: int) -> None:
        settled, completed = self.split(worker)
        for claim, verdict in settled:
            self.model.settle(claim, verdict.state, verdict.run_at, verdict.counted)
        for claim, _ in completed:
            self.model.complete(claim)
        self.run(self.hands[worker].write())

    def lose_the_answer(self, which: int) -> None:
        """The worker never heard of its claim, and finds out."""
        if not self.claims:
            return
        held = self.claims.pop(which % len(self.claims))
        if held.life != self.lives[held.worker] or not self.hands[held.worker].alive:
            return
        self.run(self.hands[held.worker].forget(held.claim))
        self.flush(held.worker)
        self.model.settle(held.claim, "available", self.clock.now(), counted=False)
        self.run(self.hands[held.worker].write())

    def die(self, worker: int, how: str) -> None:
        """Others take over its jobs; what it still writes later must change nothing."""
        if not self.hands[worker].alive:
            return
        hand = self.hands[worker]
        self.run(hand.fall_silent() if how == "silent" else hand.leave())
        self.run(upkeep.rescue(self.database, self.clock.now()))
        self.model.rescue(self.holding[worker])
        self.holding[worker] = set()
        if how == "silent":
            assert self.claims_nothing(worker)

    def claims_nothing(self, worker: int) -> bool:
        """One that was declared dead gets nothing, and learns of it; its outcomes are refused."""
        self.pending[worker].clear()
        return self.run(self.hands[worker].claim(5)) == [] and not self.hands[worker].alive

    # -- what must hold ---------------------------------------------------------------------------------------------

    def the_tables_say_what_the_model_says(self) -> None:
        found, doubles = self.run(self.rows())
        assert len(found) == len(self.model.jobs), "a job is lost, or there twice"
        differing = [(row, self.model.jobs[row[1]].row) for row in found if row != self.model.jobs[row[1]].row]
        assert not differing, "\n".join(f"\ntable {row}\nmodel {entry}" for row, entry in differing)
        assert not doubles, "a key waits twice, or runs twice"

    async def rows(self) -> list[list[Any]]:
        async with self.database.system_tx() as tx:
            return [await (await tx.execute(sql, {"tenants": self.tenants})).fetchall() for sql in (ROWS, DOUBLES)]

    def teardown(self) -> None:
        """Every job ends once nothing stands in its way, and not one is left over."""
        if not hasattr(self, "hands"):
            return
        for queue in self.queues:
            self.run(self.jobs.resume(queue))
            self.run(self.jobs.limit(queue, None))
        self.model.paused.clear()
        self.model.limits.clear()
        for worker in range(2):
            self.flush(worker)
            self.die(worker, "leaves")
        self.time_passes(3600)
        self.claims.clear()
        while any(job.state not in FINISHED for job in self.model.jobs.values()):
            self.promote()
            self.claim(0, 100)
            assert self.claims, "what waits cannot be claimed"
            while self.claims:
                self.end(0, "complete", flush=False, again=False)
            self.flush(0)
        self.the_tables_say_what_the_model_says()
        for hand in self.hands:
            self.run(hand.leave())
            hand.end()

    def ask(self, call: Any, expected: Any) -> None:
        if expected is None:
            self.run(call)
            return
        with pytest.raises(expected):
            self.run(call)

    def split(self, worker: int) -> tuple[list[tuple[Claimed, Any]], list[tuple[Claimed, Any]]]:
        """The outcomes that the next turn writes: those with a verdict, and those that are completed."""
        pending, self.pending[worker] = self.pending[worker], []
        return [one for one in pending if one[1] is not None], [one for one in pending if one[1] is None]


def test_any_story_of_the_queue_ends_as_the_model_says(database_url: str, settings: Settings) -> None:
    seed = int(os.environ.get("QUEUE_MODEL_SEED") or random.randrange(2**32))
    print(f"QUEUE_MODEL_SEED={seed}")
    settings = settings.model_copy(update={"lease_seconds": 3600.0})
    with asyncio.Runner() as runner, structlog.testing.capture_logs():  # failures are meant, and many
        database = Database(database_url, settings)
        runner.run(database.open())
        Queue.database, Queue.settings, Queue.runner = database, settings, runner
        try:
            play(
                hypothesis.seed(seed)(Queue),
                settings=hypothesis.settings(
                    max_examples=STORIES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
