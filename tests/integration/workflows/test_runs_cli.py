"""`backstay runs`: a process without the workflow's code looks, signals and cancels."""

from typing import Any

import orjson
import pytest

from backstay.app import App
from backstay.workflows import Run, RunState

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
