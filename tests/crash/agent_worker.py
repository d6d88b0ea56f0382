"""A worker that kills itself with SIGKILL in the middle of an agent's run and behind each of its steps, once each.

    python agent_worker.py DATABASE_URL RUN PLACES ours|pydantic-ai

It imports everything once and forks a worker; when that was killed, the next one. At the end it prints how many were
killed. `effect` is a table of the test: what the tools did outside, with the key that they were handed.
"""

import asyncio
import gc
import importlib
import json
import os
import signal
import sys
from typing import Any
from uuid import UUID

import psycopg
from pydantic import BaseModel

from backstay.agents import ToolContext
from backstay.agents.agent import Agent
from backstay.agents.speaker import Speaker
from backstay.app import App
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows import Run, Workflow

MASTER_KEY = "crash-test-master-key-0123456789abcdef"
BOTH = [{"tool": "pay", "arguments": {"what": what}} for what in ("rent", "tax")]
PAIR = {"tool:pay:2", "tool:pay:3"}  # the steps of these calls, which run together
STEPS = [{"calls": BOTH}, {"tool": "pay", "arguments": {"what": "tip"}}, {"content": "Paid."}]


def settings(url: str) -> Settings:
    return Settings.load(database_url=url, master_key=MASTER_KEY, lease_seconds=0.5, pool_size=6)


def build(app: App, url: str) -> Agent[str]:
    @app.tool
    async def pay(what: str, idempotency_key: str, context: ToolContext) -> str:
        """Pay something."""
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as outside:
            await outside.execute("insert into public.effect values (%s, %s)", [what, idempotency_key])
        await die_once(url, f"in {what}")
        return f"{what} paid"

    return app.agent("payer", model="sim:script?price=0.01", tools=[pay], instructions=json.dumps({"script": STEPS}))


class Order(BaseModel):
    text: str


def build_durable(app: App, url: str) -> Workflow[Order, str]:
    """The same as an agent of pydantic-ai."""
    from pydantic_ai import Agent as PydanticAgent

    from backstay.agents.pydantic_ai import tool_context

    async def pay(what: str) -> str:
        """Pay something."""
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as outside:
            await outside.execute("insert into public.effect values (%s, %s)", [what, tool_context().idempotency_key])
        await die_once(url, f"in {what}")
        return f"{what} paid"

    payer = PydanticAgent(name="payer", tools=[pay], instructions=json.dumps({"script": STEPS}))
    durable = app.durable(payer, model="sim:script?price=0.01")

    @app.workflow
    async def order(run: Run, order: Order) -> str:
        return (await durable.run(run, order.text)).output

    return order


BUILD = {"ours": build, "pydantic-ai": build_durable}


async def die_once(url: str, where: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as outside:
        cursor = await outside.execute("insert into public.died values (%s) on conflict do nothing", [where])
    if cursor.rowcount and where in sys.argv[3].split(","):
        os.kill(os.getpid(), signal.SIGKILL)


def arm(url: str) -> None:
    step, turn, returned = Run.step, Speaker._turn, set[str]()

    async def stepped(run: Run, fn: Any, *args: Any, name: str | None = None, **more: Any) -> Any:
        result = await step(run, fn, *args, name=name, **more)
        await run._journal.written()  # the code may go on before; a step that is not recorded is made again
        place = f"behind {name}"
        if name in PAIR:
            returned.add(name)
            if returned != PAIR:
                return result  # the other one is still under way
            place = "behind both"
        await die_once(url, place)
        return result

    async def spoken(speaker: Speaker, by: Principal, draft: Any, whole: bool) -> Any:
        result = await turn(speaker, by, draft, whole)
        await die_once(url, "in model")
        return result

    Run.step = stepped  # type: ignore[method-assign,assignment]
    Speaker._turn = spoken  # type: ignore[method-assign]


async def work(url: str, run: UUID) -> None:
    async with App(settings(url)) as app:
        BUILD[sys.argv[4]](app, url)
        stop = asyncio.Event()
        working = asyncio.create_task(app.jobs.worker(concurrency=2).run(stop))
        await app.workflows.result(Principal.system(app.default_tenant, "test"), run, timeout=30)
        stop.set()
        await working


def main(url: str, run: UUID) -> None:
    if sys.argv[4] == "pydantic-ai":
        importlib.import_module("backstay.agents.pydantic_ai")
    gc.freeze()
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            arm(url)
            asyncio.run(work(url, run))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            print(killed, os.waitstatus_to_exitcode(status))
            return
        killed += 1


if __name__ == "__main__":
    main(sys.argv[1], UUID(sys.argv[2]))
