"""An agent's worker is killed with `kill -9` behind every step, and in the middle of a model call and of a tool call.

No finished step is repeated; one that was under way is, with the same key, and the stream and the audit say so.
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from backstay.agents import stream_of
from backstay.app import App
from backstay.kernel.principal import Principal

from .agent_worker import Order, build, build_durable, settings

BEHIND = ["behind model:1", "behind both", "behind model:4", "behind tool:pay:5", "behind model:6"]


async def survive(
    url: str, die_at: list[str], durable: bool = False
) -> tuple[Counter[tuple[str, str]], Counter[str], list[str], list[str]]:
    """What the tools did, which model calls were made, what the stream says, and what the audit says."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table public.effect (what text, key text)")
        connection.execute("create table public.died (place text primary key)")
    async with App(settings(url)) as app:
        by = Principal.system(app.default_tenant, "test")
        if durable:
            run = await build_durable(app, url).start(Order(text="Pay."), by=by)
        else:
            run = (await build(app, url).start("Pay.", by=by)).run
        worker = await asyncio.create_subprocess_exec(
            *[sys.executable, str(Path(__file__).with_name("agent_worker.py")), url, str(run.id), ",".join(die_at)],
            "pydantic-ai" if durable else "ours",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(worker.communicate(), 50)
        assert out.split() == [str(len(die_at)).encode(), b"0"], err.decode()[-3000:]
        answer = await run.result()
        assert (answer if durable else answer.output) == "Paid."
        events = [event async for event in app.streams.read(by, stream_of(run.id))]
        audit = [entry.action for entry in await app.audit.entries(by, run=run.id, limit=200)]
    with psycopg.connect(url, autocommit=True) as connection:
        effects = Counter(connection.execute("select what, key from public.effect").fetchall())
        calls = Counter(key for (key,) in connection.execute("select idempotency from backstay.call").fetchall())
    told = [event.data["state"] if event.type == "status" else event.type for event in events]
    return effects, calls, told, audit


async def test_no_finished_step_is_repeated_wherever_the_worker_dies(database_url: str) -> None:
    effects, calls, told, audit = await survive(database_url, BEHIND)
    assert sorted(what for what, _ in effects) == ["rent", "tax", "tip"]
    assert set(effects.values()) == set(calls.values()) == {1}
    assert len(calls) == 3
    assert (told.count("message.start"), told.count("tool.result"), told[-1]) == (3, 3, "done")
    assert "restarted" not in told
    assert audit.count("tool.call.started") == audit.count("tool.call.finished") == 3


async def test_a_step_that_was_under_way_is_made_again_with_its_key(database_url: str) -> None:
    effects, calls, told, audit = await survive(database_url, ["in model", "in tip"])
    assert {what: count for (what, _), count in effects.items()} == {"rent": 1, "tax": 1, "tip": 2}
    assert sorted(calls.values()) == [1, 1, 2]
    assert told.count("restarted") == 1
    assert (audit.count("tool.call.started"), audit.count("tool.call.finished")) == (4, 3)


async def test_an_agent_of_pydantic_ai_repeats_no_finished_step_and_makes_what_was_under_way_again_with_its_key(
    database_url: str,
) -> None:
    pytest.importorskip("pydantic_ai", reason="the extra `pydantic-ai` is not installed")
    places = ["behind model:1", "behind both", "in model", "in tip", "behind model:6"]
    effects, calls, told, audit = await survive(database_url, places, durable=True)
    assert {what: count for (what, _), count in effects.items()} == {"rent": 1, "tax": 1, "tip": 2}
    assert len(effects) == 3
    assert sorted(calls.values()) == [1, 1, 2]
    assert (told.count("restarted"), told[-1]) == (1, "done")
    assert (audit.count("tool.call.started"), audit.count("tool.call.finished")) == (4, 3)
