"""`backstay runs`: a process without the workflow's code looks, signals, cancels, and gives second chances."""

from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from backstay.app import App
from backstay.kernel.errors import Invalid
from backstay.workflows import Run, RunNotFound, RunNotMendable, RunState, StepOutOfRange

from .conftest import Cli, Order


@pytest.fixture
def waiting(app: App) -> App:
    """An App with a workflow that waits for a word."""

    @app.workflow
    async def waiting(run: Run, order: Order) -> Any:
        return await run.signal("word")

    return app


async def test_signal_and_cancel(waiting: App, cli: Cli) -> None:
    by = await waiting.auth.operator()
    runs = [(await waiting.workflows.start_raw("waiting", {"number": n}, by=by)).id for n in range(2)]
    worker = waiting.jobs.worker
    await worker(queues=["workflows"]).run_until_idle()
    listed = orjson.loads((await cli("runs", "list", "--state", "waiting", "--json")).output)
    assert {item["id"] for item in listed} == {str(run) for run in runs}
    assert (await cli("runs", "signal", runs[0], "word", "--payload", "{")).exit_code == 1
    for _ in range(2):
        sent = await cli("runs", "signal", runs[0], "word", "--payload", '{"n": 1}', "--key", "k")
        assert (sent.exit_code, sent.output) == (0, f"signal 1 of run {runs[0]}: word\n")
    cancelled = await cli("runs", "cancel", runs[1], "--reason", "enough")
    assert (cancelled.exit_code, cancelled.output) == (0, f"run {runs[1]} is waiting and was asked to stop\n")
    await worker(queues=["workflows"]).run_until_idle()
    assert (await cli("runs", "cancel", runs[1])).exit_code == 1
    ended = [await waiting.workflows.get(by, run) for run in runs]
    assert [(run.state, run.output) for run in ended] == [(RunState.COMPLETED, {"n": 1}), (RunState.CANCELLED, None)]
    assert "cancelled by command line: enough" in (await cli("runs", "show", runs[1])).output


async def test_retry_move_and_fork(app: App, cli: Cli) -> None:
    """A run fails at its second step; once that is mended it is forked, retried, and moved to a second version."""
    calls: list[str] = []
    broken = True

    async def pay() -> str:
        calls.append("pay")
        return "paid"

    async def ship() -> str:
        calls.append("ship")
        if broken:
            raise Invalid("no parcel service")
        return "shipped"

    async def sell(run: Run, order: Order) -> list[str]:
        return [await run.step(pay), await run.step(ship)]

    for version in ("2", "1"):  # the one registered last is for new runs
        app.workflow(name="sell", version=version)(sell)
    by = await app.auth.operator()
    first, second = [(await app.workflows.start_raw("sell", {}, by=by)).id for _ in range(2)]
    worker = lambda: app.jobs.worker(queues=["workflows"]).run_until_idle()  # noqa: E731
    await worker()
    assert (await app.workflows.get(by, first)).state == RunState.FAILED
    broken = False
    beyond = await cli("runs", "fork", first, "9")
    assert (beyond.exit_code, type(beyond.exception)) == (1, StepOutOfRange)
    assert isinstance((await cli("runs", "retry", uuid4())).exception, RunNotFound)
    forked = await cli("runs", "fork", first, "1", "--version", "2")
    assert forked.exit_code == 0, forked.output
    fork = UUID(forked.output.split()[1])
    assert forked.output == f"run {fork} goes on from step 1\n"
    retried = await cli("runs", "retry", first)
    assert (retried.exit_code, retried.output) == (0, f"run {first} is taken up again\n")
    moved = await cli("runs", "move", second, "2")
    assert (moved.exit_code, moved.output) == (0, f"run {second} goes on in version 2\n")
    await worker()
    ended = [await app.workflows.get(by, run) for run in (first, second, fork)]
    assert [(run.version, run.output) for run in ended] == [(version, ["paid", "shipped"]) for version in "122"]
    assert (ended[2].forked_from, ended[2].forked_step) == (first, 1)
    assert sorted(calls) == ["pay"] * 2 + ["ship"] * 5, "finished steps are not taken again"
    for again in (("retry", first), ("move", first, "2")):
        refused = await cli("runs", *again)
        assert (refused.exit_code, type(refused.exception)) == (1, RunNotMendable)
