"""`backstay schedules` at the command line."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import orjson
import pytest

from backstay.app import App
from backstay.jobs import JobContext
from backstay.jobs.schedules import NewSchedule
from backstay.kernel.principal import Principal

from .conftest import Note

Run = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def backstay(app: App, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `backstay schedules …` in a process of its own: its exit code, and what it said."""
    monkeypatch.setenv("BACKSTAY_DATABASE_URL", str(app.settings.database_url))
    assert app.settings.master_key is not None
    monkeypatch.setenv("BACKSTAY_MASTER_KEY", app.settings.master_key.get_secret_value())

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "backstay", "schedules", *arguments],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    return run


async def test_look_pause_resume_run_and_delete(backstay: Run, app: App) -> None:
    async def note(context: JobContext, note: Note) -> None: ...

    app.jobs.handler("note", note, Note)
    assert await backstay("list") == (0, "no schedules\n")
    by = Principal.system(app.default_tenant, "test")
    await app.schedules.put(by, "nightly", NewSchedule(job="note", cron="0 3 * * *"))
    code, said = await backstay("show", "nightly")
    assert (code, "0 3 * * * (UTC)" in said) == (0, True), said
    assert await backstay("pause", "nightly") == (0, "nightly is paused\n")
    assert orjson.loads((await backstay("list", "--json"))[1])[0]["paused"] is True
    code, said = await backstay("resume", "nightly")
    assert (code, said.startswith("nightly fires next at ")) == (0, True), said
    code, said = await backstay("run", "nightly")
    assert code == 0, said
    assert [job.name for job in await app.jobs.list(by)] == ["note"]
    assert (await backstay("delete", "nightly"))[0] == 0
    code, said = await backstay("show", "nightly")
    assert code != 0
    assert said.splitlines() == ["backstay: there is no schedule 'nightly'"], said
