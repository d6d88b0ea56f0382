"""`backstay builtin` at the command line, in processes of its own."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from uuid import UUID

import orjson
import pytest

from backstay.app import App

from .conftest import Service

Backstay = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def backstay(app: App, monkeypatch: pytest.MonkeyPatch) -> Backstay:
    """Runs `backstay builtin …`: its exit code, and what it said."""
    monkeypatch.setenv("BACKSTAY_DATABASE_URL", str(app.settings.database_url))
    assert app.settings.master_key is not None
    monkeypatch.setenv("BACKSTAY_MASTER_KEY", app.settings.master_key.get_secret_value())

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "backstay", "builtin", *arguments],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    return run


async def test_a_call_is_enqueued_and_its_answer_looked_at(backstay: Backstay, app: App, service: Service) -> None:
    code, said = await backstay("http", service.url("/x"), "--json", '{"a": 1}', "-H", "authorization: Bearer secret1")
    assert code == 0, said
    job = UUID(said.strip())
    await app.jobs.worker().run_until_idle()
    assert service.seen[0]["headers"]["authorization"] == "Bearer secret1"
    code, said = await backstay("result", str(job), "--json")
    assert (code, orjson.loads(said)["result"]["status"]) == (0, 200)
    code, said = await backstay("file", str(job))
    assert (code, "left a result and no file" in said) == (1, True)
