"""`backstay machines`: a process without the machine's code looks and sends."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from backstay.app import App
from backstay.commands import commands
from backstay.kernel.db import Database
from backstay.kernel.errors import BackstayError
from backstay.kernel.principal import Principal
from backstay.workflows.machines import Instance, Machine, Machines, diagram
from conftest import MASTER_KEY

from .conftest import review

Run = Callable[..., "asyncio.Future[Result]"]


@pytest.fixture
def run(app: App, database_url: str, tmp_path: Path) -> Run:
    """Runs a command on the database, beside the test's own event loop. The default tenant is there."""
    environment = {
        "BACKSTAY_DATABASE_URL": database_url,
        "BACKSTAY_DATA_DIR": str(tmp_path),
        "BACKSTAY_MASTER_KEY": MASTER_KEY,
        "COLUMNS": "200",
    }

    def start(*arguments: object) -> "asyncio.Future[Result]":
        line = ["machines", *map(str, arguments)]
        runner = CliRunner(env=environment)
        return asyncio.get_running_loop().run_in_executor(None, lambda: runner.invoke(commands, line))

    return start


@pytest.fixture
async def started(app: App, reviews: Machine) -> Instance:
    """An instance of the default tenant."""
    return await reviews.start("k-[1]", data={"text": "hi"}, tenant=app.default_tenant)


async def test_look_and_send(run: Run, started: Instance, reviews: Machine, app: App) -> None:
    listed = await run("list")
    assert (listed.exit_code, "review" in listed.output, "draft, waiting" in listed.output) == (0, True, True)
    sent = await run("send", started.id, "submit", "--data", '{"note": "x"}')
    assert (sent.exit_code, sent.output) == (0, f"instance {started.id} is waiting\n")
    shown = await run("show", started.id)
    assert shown.exit_code == 0
    for part in ("review, version 1", "waiting", "takes      remind, approve", "command line", '"hi"', "k-[1]"):
        assert part in shown.output, part
    found = orjson.loads((await run("instances", "--state", "waiting", "--json")).output)
    assert [item["id"] for item in found] == [str(started.id)]
    assert "no instances" in (await run("instances", "--machine", "other")).output
    by = Principal.system(app.default_tenant, "test")
    assert (await reviews.get(started.id, by=by)).history[0].actor == "command line"


async def test_a_diagram_can_be_piped(run: Run, started: Instance) -> None:
    drawn = await run("diagram", "review")
    assert (drawn.exit_code, drawn.output) == (0, diagram(review()))
    missing = await run("diagram", "nothing")
    assert isinstance(missing.exception, BackstayError)


async def test_refusals_are_told(run: Run, started: Instance, machines: Machines, db: Database) -> None:
    for arguments, code in (
        ((started.id, "approve"), "illegal_transition"),
        ((started.id, "submit", "--data", "[]"), "invalid"),
        ((started.id, "submit", "--data", "{"), "invalid"),
        ((UUID(int=1), "submit"), "machine_instance_not_found"),
    ):
        refused = await run("send", *arguments)
        assert refused.exit_code == 1
        assert isinstance(refused.exception, BackstayError)
        assert refused.exception.code == code
    await run("send", started.id, "submit")
    guarded = await run("send", started.id, "approve")
    assert isinstance(guarded.exception, BackstayError)
    assert guarded.exception.code == "machine_code_missing"


async def test_delete(run: Run, started: Instance) -> None:
    assert (await run("delete", started.id)).exit_code == 0
    gone = await run("delete", started.id)
    assert isinstance(gone.exception, BackstayError)
