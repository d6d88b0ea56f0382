"""`backstay jobs`: look at jobs, retry and cancel them, pause and limit queues."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Annotated, TypeVar
from uuid import UUID

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..kernel.clock import SystemClock
from ..kernel.crypto import Vault
from ..kernel.db import Database
from ..kernel.embedded import EmbeddedPostgres
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from .models import JobState
from .service import Jobs

T = TypeVar("T")
commands = typer.Typer(help="Jobs: look, retry, cancel.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[UUID, typer.Argument(help="The job's id.")]
Queue = Annotated[str, typer.Argument(help="The queue's name.")]


@commands.command("list")
def list_(
    state: Annotated[JobState | None, typer.Option(help="Only this state; discarded are the dead ones.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    json: Json = False,
) -> None:
    """List the newest jobs."""
    found = _with_jobs(lambda jobs, by: jobs.list(by, limit=limit, state=state, queue=queue, name=name))
    if json:
        _print_json(found)
        return
    table = Table("id", "name", "queue", "state", "attempt", "run at", "error", box=None, pad_edge=False)
    for job in found:
        error = (job.error or "").splitlines()[0][:60] if job.error else ""
        table.add_row(str(job.id), job.name, job.queue, job.state, str(job.attempt), _time(job.run_at), error)
    out.print(table if found else "no jobs")


@commands.command()
def show(id: Id, json: Json = False) -> None:
    """Show one job with its input."""
    job = _with_jobs(lambda jobs, by: jobs.get(by, id))
    if json:
        _print_json(job)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in job.model_dump(mode="json").items():
        if value is not None:
            table.add_row(name, value if isinstance(value, str) else orjson.dumps(value).decode())
    out.print(table)


@commands.command()
def retry(id: Id) -> None:
    """Run a job now that waits, was cancelled or is dead."""
    job = _with_jobs(lambda jobs, by: jobs.retry(by, id))
    out.print(f"job {job.id} is {job.state}")


@commands.command()
def cancel(id: Id) -> None:
    """Cancel a waiting job, or ask the worker of a running one to stop it."""
    job = _with_jobs(lambda jobs, by: jobs.cancel(by, id))
    out.print(f"job {job.id} is {job.state}" + (" and will be stopped" if job.state == JobState.RUNNING else ""))


@commands.command()
def queues(json: Json = False) -> None:
    """Show the unfinished jobs by queue."""
    found = _with_jobs(lambda jobs, by: jobs.queues(by))
    if json:
        _print_json(found)
        return
    table = Table("queue", "scheduled", "available", "running", "retryable", "paused", box=None, pad_edge=False)
    for queue in found:
        counts = (queue.scheduled, queue.available, queue.running, queue.retryable)
        table.add_row(queue.name, *map(str, counts), "yes" if queue.paused else "")
    out.print(table if found else "no unfinished jobs")


@commands.command()
def pause(queue: Queue) -> None:
    """Let no worker claim from QUEUE, for any tenant. What runs ends normally."""
    _with_jobs(lambda jobs, _: jobs.pause(queue))
    out.print(f"{queue} is paused")


@commands.command()
def resume(queue: Queue) -> None:
    """Let workers claim from QUEUE again."""
    _with_jobs(lambda jobs, _: jobs.resume(queue))
    out.print(f"{queue} is worked on")


@commands.command()
def limit(
    queue: Queue,
    running: Annotated[
        int | None, typer.Argument(min=0, help="How many may run at once; without it: no limit.")
    ] = None,
) -> None:
    """Limit how many jobs of QUEUE run at once, over all workers."""
    _with_jobs(lambda jobs, _: jobs.limit(queue, running))
    out.print(f"{queue}: " + ("no limit" if running is None else f"at most {running} at once"))


def _with_jobs(work: Callable[[Jobs, Principal], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _jobs() as (jobs, by):
            return await work(jobs, by)

    return asyncio.run(run())


@asynccontextmanager
async def _jobs() -> AsyncIterator[tuple[Jobs, Principal]]:
    """Jobs without handlers, acting for the default tenant."""
    settings, clock = Settings.load(), SystemClock()
    async with AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            embedded = EmbeddedPostgres(settings.data_dir)
            url = await asyncio.to_thread(embedded.start)
            stack.push_async_callback(asyncio.to_thread, embedded.stop)
        db = await stack.enter_async_context(Database(url, settings))
        vault = Vault.of(settings)
        tenant = await Auth(db, clock, vault, Audit(db, clock, vault)).ensure_default_tenant()
        yield Jobs(db, clock, settings), Principal.system(tenant.id, "command line")


def _print_json(found: BaseModel | list[T]) -> None:
    rows = (
        found.model_dump(mode="json")
        if isinstance(found, BaseModel)
        else [row.model_dump(mode="json") for row in found if isinstance(row, BaseModel)]
    )
    typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
