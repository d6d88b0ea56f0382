"""`backstay runs`: look at runs and their steps."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Annotated, TypeVar
from uuid import UUID

import orjson
import typer
from rich.console import Console
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..events import Events
from ..jobs import Jobs
from ..kernel.clock import SystemClock
from ..kernel.crypto import Vault
from ..kernel.db import Database
from ..kernel.embedded import EmbeddedPostgres
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from .models import RunState
from .service import Workflows

T = TypeVar("T")
commands = typer.Typer(help="Runs and their steps.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@commands.command("list")
def list_(
    state: Annotated[RunState | None, typer.Option(help="Only this state.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    json: Json = False,
) -> None:
    """List the newest runs."""
    found = _with_workflows(lambda runs, by: runs.list(by, limit=limit, state=state, workflow=workflow))
    if json:
        rows = [run.model_dump(mode="json") for run in found]
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        return
    table = Table("id", "workflow", "version", "state", "taken up", "created", "error", box=None, pad_edge=False)
    for run in found:
        error = run.error.splitlines()[0][:60] if run.error else ""
        created = _time(run.created_at)
        table.add_row(str(run.id), run.workflow, run.version, run.state, str(run.attempt), created, error)
    out.print(table if found else "no runs")


@commands.command()
def show(id: Annotated[UUID, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Show one run with its steps."""
    run = _with_workflows(lambda runs, by: runs.get(by, id))
    if json:
        typer.echo(orjson.dumps(run.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
        return
    out.print(f"run       {run.id}\nworkflow  {run.workflow}, version {run.version}\nstate     {run.state}")
    if run.error:
        out.print(f"error     {run.error}")
    out.print(f"input     {_short(run.input)}")
    if run.output is not None:
        out.print(f"output    {_short(run.output)}")
    table = Table("step", "name", "kind", "state", "attempts", "seconds", "output", box=None, pad_edge=False)
    for step in run.steps:
        took = f"{(step.finished_at - step.started_at).total_seconds():.3f}" if step.finished_at else ""
        said = step.error or _short(step.output)
        table.add_row(str(step.seq), step.name, step.kind, step.state, str(step.attempt), took, said)
    out.print(table if run.steps else "no steps yet")


def _with_workflows(work: Callable[[Workflows, Principal], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _workflows() as (workflows, by):
            return await work(workflows, by)

    return asyncio.run(run())


@asynccontextmanager
async def _workflows() -> AsyncIterator[tuple[Workflows, Principal]]:
    """Workflows without code, acting for the default tenant."""
    settings, clock = Settings.load(), SystemClock()
    async with AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            embedded = EmbeddedPostgres(settings.data_dir)
            url = await asyncio.to_thread(embedded.start)
            stack.push_async_callback(asyncio.to_thread, embedded.stop)
        db = await stack.enter_async_context(Database(url, settings))
        vault = Vault.of(settings)
        audit = Audit(db, clock, vault)
        tenant = await Auth(db, clock, vault, audit).ensure_default_tenant()
        workflows = Workflows(db, clock, Jobs(db, clock, settings), audit, Events(db, clock))
        yield workflows, Principal.system(tenant.id, "command line")


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 200 else f"{text[:199]}…"


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
