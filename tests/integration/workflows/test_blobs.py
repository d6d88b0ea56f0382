"""Inputs and outputs over 64 kB lie beside the hot rows; whoever reads them does not notice."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from backstay.app import App
from backstay.jobs import Jobs
from backstay.kernel.db import Database, Tx
from backstay.kernel.migrate import Migrations, history
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows import Run, RunFailed, RunNotFound, RunState, StepState, ValueTooLarge, Workflow, Workflows
from backstay.workflows.models import Superseded, Suspend
from backstay.workflows.pruning import prune_runs
from backstay.workflows.recorder import Journal, Recorder
from conftest import MASTER_KEY

from .conftest import SOON, Order
from .scanner import LARGE, LEASE, Scan, register, services
from .test_recording import intent, output, taken
from .test_runs import until_finished

ACCENTED = "é" * 40_000  # fewer characters than 64 Ki, and more bytes
SMALL = "x" * 60_000
HOT_ROW = 3_000  # bytes, with room for what a row holds beside an input or output


async def rows(db: Database, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with db.system_tx() as tx:
        return await (await tx.execute(query, values)).fetchall()


async def kept(db: Database, run: UUID) -> list[tuple[str, int]]:
    """What of a run lies beside its rows, once those are proven small."""
    sizes = await rows(
        db,
        "select pg_column_size(r.*) from backstay.run r where id = %s"
        " union all select pg_column_size(s.*) from backstay.step s where run_id = %s",
        run,
        run,
    )
    assert max(size for (size,) in sizes) < HOT_ROW
    return await rows(db, "select part, seq from backstay.run_blob where run_id = %s order by part, seq", run)


@pytest.fixture
def scanning(workflows: Workflows) -> Workflow[Scan, str]:
    """A large input, step, transaction and output; its code fails once, after both steps."""
    return _scanning(workflows)


def _scanning(workflows: Workflows) -> Workflow[Scan, str]:
    calls: list[str] = []

    async def read(page: str) -> str:
        calls.append("read")
        return page + ACCENTED

    async def store(tx: Tx, page: str) -> str:
        calls.append("store")
        return page

    @workflows.workflow(retry=SOON)
    async def scanning(run: Run, scan: Scan) -> str:
        text = await run.step(read, scan.page)
        again = await run.transaction(store, text)
        await run.now()
        if calls == ["read", "store"]:
            calls.append("crash")
            raise ConnectionError("crash")
        assert calls == ["read", "store", "crash"], "a replay takes no step again"
        assert again == text
        return again

    return scanning


class TestEveryPath:
    async def test_input_steps_and_output_lie_beside_small_rows_and_are_read_and_replayed_as_ever(
        self, scanning: Workflow[Scan, str], workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
    ) -> None:
        handle = await scanning.start(Scan(page=LARGE), tenant=tenant)
        assert await kept(db, handle.id) == [("input", -1)]
        await until_finished(workflows, jobs, handle)
        assert await handle.result(1) == LARGE + ACCENTED
        run = await handle.get()
        assert run.attempt == 2
        assert (run.input, run.output) == ({"page": LARGE}, LARGE + ACCENTED)
        assert [step.output == run.output for step in run.steps] == [True, True, False]
        assert await kept(db, handle.id) == [("input", -1), ("output", -1), ("step", 0), ("step", 1)]

    @pytest.mark.parametrize(("page", "parts"), [(SMALL, []), (ACCENTED, ["input", "output"])])
    async def test_what_fits_into_a_row_stays_there_by_its_bytes(
        self, page: str, parts: list[str], workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
    ) -> None:
        @workflows.workflow
        async def modest(run: Run, scan: Scan) -> str:
            return scan.page

        handle = await modest.start(Scan(page=page), tenant=tenant)
        await until_finished(workflows, jobs, handle)
        assert await handle.result(1) == page
        assert await rows(db, "select part from backstay.run_blob order by part") == [(part,) for part in parts]

    async def test_signals_children_and_approvals(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, db: Database
    ) -> None:
        @workflows.workflow
        async def copying(run: Run, scan: Scan) -> str:
            return scan.page

        @workflows.workflow
        async def waiting(run: Run, order: Order) -> list[str]:
            signal = await run.signal("page", str)
            child = await run.child(copying, Scan(page=signal))
            decision = await run.approve(Scan(page=child))
            return [signal, child, decision.request.page]

        handle = await waiting.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        await workflows.send_signal(handle.id, "page", LARGE, by=owner)
        await jobs.worker().run_until_idle()
        [asked] = await workflows.approvals.list(owner)
        await workflows.approvals.edit(owner, asked.id, {"page": LARGE[1:]}, reason="a stain")
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [LARGE, LARGE, LARGE[1:]]
        assert [part for part, _ in await kept(db, handle.id)] == ["output", "step", "step", "step"]

    async def test_steps_side_by_side_with_a_transaction_that_holds_the_run(
        self, workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
    ) -> None:
        begun = asyncio.Event()

        async def scan(number: int) -> str:
            await begun.wait()
            return f"{number}{LARGE}"

        async def hold(tx: Tx) -> str:
            begun.set()
            return LARGE

        @workflows.workflow
        async def fan(run: Run, order: Order) -> int:
            pages = await run.gather(*(run.step(scan, number) for number in range(5)), run.transaction(hold))
            return len(pages)

        handle = await fan.start(Order(), tenant=tenant)
        await until_finished(workflows, jobs, handle)
        assert await handle.result(1) == 6
        assert await kept(db, handle.id) == [("step", seq) for seq in range(6)]
        assert [step.output[0] for step in (await handle.get()).steps][:5] == list("01234")

    async def test_after_kill_9_another_worker_replays_the_large_output(
        self, settings: Settings, db: Database, tenant: UUID, tmp_path: Path
    ) -> None:
        read_again = False

        async def read(page: str) -> str:
            nonlocal read_again
            read_again = True
            return ""

        async def measure(text: str) -> int:
            assert text == LARGE * 2
            return len(text)

        jobs, workflows = services(db, settings.model_copy(update={"lease_seconds": LEASE}))
        handle = await register(workflows, read, measure).start(Scan(page=LARGE), tenant=tenant)
        program = Path(__file__).with_name("scanner.py")
        worker = await asyncio.create_subprocess_exec(
            sys.executable, program, settings.database_url, tmp_path, MASTER_KEY, stdout=asyncio.subprocess.PIPE
        )
        assert worker.stdout is not None
        try:
            while (line := await worker.stdout.readline()) != b"begun\n":
                assert line, "the worker has ended by itself"
        finally:
            worker.kill()
            await worker.wait()
        assert await kept(db, handle.id) == [("input", -1), ("step", 0)]
        await until_finished(workflows, jobs, handle)
        assert await handle.result(1) == len(LARGE) * 2
        assert not read_again

    async def test_over_http_and_for_its_tenant_only(
        self, app: App, client: httpx.AsyncClient, other_client: httpx.AsyncClient
    ) -> None:
        _scanning(app.workflows)
        started = await client.post("/api/runs", json={"workflow": "scanning", "input": {"page": LARGE}})
        assert started.json()["input"] == {"page": LARGE}
        url = f"/api/runs/{started.json()['id']}"
        worker = app.jobs.worker(queues=["workflows"])
        await worker.run_until_idle()
        assert (await other_client.get(url)).status_code == 404
        assert (await client.get(url)).json()["steps"][0]["output"] == LARGE + ACCENTED


class TestRecording:
    async def test_small_outputs_take_no_statement_more(
        self, db: Database, workflows: Workflows, tenant: UUID, database_url: str
    ) -> None:
        """The table is away: whoever touches it fails."""
        run = await taken(db, _noop(workflows), tenant)
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute("alter table backstay.run_blob rename to gone")
        assert await Recorder(db).record(run, [intent(0), output(1, f'"{SMALL}"')])
        journal = Journal(Recorder(db), run)
        journal.add(output(2, f'"{LARGE}"'))
        with pytest.raises(Suspend):
            await journal.written()
        recorded = await rows(db, "select seq from backstay.step where run_id = %s order by seq", run.id)
        assert recorded == [(0,), (1,)], "a row without its output would be replayed as None"

    async def test_who_has_lost_the_run_leaves_nothing_and_what_has_ended_stays(
        self, db: Database, workflows: Workflows, tenant: UUID
    ) -> None:
        noop = _noop(workflows)
        mine, lost = await taken(db, noop, tenant), await taken(db, noop, tenant)
        await rows(db, "update backstay.run set fence = 8 where id = %s returning 1", lost.id)
        recorder = Recorder(db)
        journals = [Journal(recorder, run) for run in (mine, lost)]
        for journal in journals:
            journal.add(output(0, f'"{LARGE}"'))
        answers = await asyncio.gather(*(journal.written() for journal in journals), return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), Superseded]
        assert await recorder.record(mine, [output(1, "null")])
        for ended in (0, 1):
            assert not await recorder.record(mine, [output(2, f'"{LARGE}"'), output(ended, f'"{ACCENTED}"')])
        assert await rows(db, "select run_id, seq, body from backstay.run_blob") == [(mine.id, 0, LARGE)]
        assert await rows(db, "select seq from backstay.step order by seq") == [(0,), (1,)]


class TestKeeping:
    async def test_a_fork_takes_along_what_it_needs_and_keeps_it_when_the_first_is_removed(
        self, scanning: Workflow[Scan, str], workflows: Workflows, jobs: Jobs, owner: Principal, db: Database
    ) -> None:
        handle = await scanning.start(Scan(page=LARGE), by=owner)
        await until_finished(workflows, jobs, handle)
        fork = await workflows.mending.fork(owner, handle.id, 1)
        assert await kept(db, fork) == [("input", -1), ("step", 0)]
        fork = await workflows.mending.fork(owner, handle.id, 2)
        async with db.tenant_tx(owner.tenant) as tx:
            assert await prune_runs(tx, owner.tenant, datetime.now(UTC) + timedelta(hours=1), 10) == 1
        assert await rows(db, "select count(*) from backstay.run_blob where run_id = %s", handle.id) == [(0,)]
        with pytest.raises(RunNotFound):
            await handle.get()
        run = await workflows.get(owner, fork)
        assert (run.input, run.steps[1].output) == ({"page": LARGE}, LARGE + ACCENTED)

    async def test_a_second_start_with_the_key_keeps_the_first_input(
        self, scanning: Workflow[Scan, str], owner: Principal, db: Database
    ) -> None:
        first = await scanning.start(Scan(page=LARGE), by=owner, key="k")
        second = await scanning.start(Scan(page=ACCENTED), by=owner, key="k")
        assert second.id == first.id
        assert (await second.get()).input == {"page": LARGE}
        assert await rows(db, "select count(*) from backstay.run_blob") == [(1,)]

    async def test_another_tenant_sees_nothing(
        self, scanning: Workflow[Scan, str], workflows: Workflows, tenant: UUID, other_owner: Principal, db: Database
    ) -> None:
        handle = await scanning.start(Scan(page=LARGE), tenant=tenant)
        with pytest.raises(RunNotFound):
            await workflows.get(other_owner, handle.id)
        async with db.tenant_tx(other_owner.tenant) as tx:
            assert await (await tx.execute("select from backstay.run_blob")).fetchall() == []

    async def test_the_way_back_puts_it_into_the_rows(
        self, scanning: Workflow[Scan, str], workflows: Workflows, jobs: Jobs, owner: Principal, database_url: str
    ) -> None:
        handle = await scanning.start(Scan(page=LARGE), by=owner)
        await until_finished(workflows, jobs, handle)
        names = [migration.name for migration in history()]
        before = history()[next(at for at, name in enumerate(names) if "run_blobs" in name) - 1].number
        await asyncio.to_thread(Migrations(database_url).down, before)
        with psycopg.connect(database_url) as connection:
            [run] = connection.execute("select input, output from backstay.run").fetchall()
            steps = connection.execute("select output from backstay.step where seq < 2").fetchall()
        assert run == ({"page": LARGE}, LARGE + ACCENTED)
        assert steps == [(LARGE + ACCENTED,)] * 2


class TestTheBound:
    async def test_what_exceeds_it_fails_its_step_at_once_and_says_how_to_mend_it(
        self, workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
    ) -> None:
        async def video(size: int) -> str:
            return "v" * size

        @workflows.workflow(retry=SOON)
        async def filming(run: Run, order: Order) -> int:
            return len(await run.step(video, order.number))

        fits, exceeds = [
            await filming.start(Order(number=16 * 2**20 - quotes), tenant=tenant) for quotes in (2, 1)
        ]  # bytes of the JSON text: the string has two quotes
        await until_finished(workflows, jobs, fits, exceeds)
        assert await fits.result(1) == 16 * 2**20 - 2
        with pytest.raises(RunFailed, match=r"16\.0 MiB.*keep it.*return where it lies"):
            await exceeds.result(1)
        [step] = (await exceeds.get()).steps
        assert (step.state, step.attempt, step.output) == (StepState.FAILED, 1, None)
        assert await kept(db, exceeds.id) == []

    async def test_a_run_does_not_start_with_more(
        self, scanning: Workflow[Scan, str], workflows: Workflows, owner: Principal
    ) -> None:
        with pytest.raises(ValueTooLarge, match="16 MiB"):
            await scanning.start(Scan(page="p" * 2**24), by=owner)
        assert await workflows.list(owner, state=RunState.PENDING) == []


def _noop(workflows: Workflows) -> Workflow[Order, None]:
    @workflows.workflow
    async def noop(run: Run, order: Order) -> None: ...

    return noop
