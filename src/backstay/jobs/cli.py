"""`backstay jobs`: look at jobs, retry and cancel them, pause and limit queues."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, TypeVar
from uuid import UUID

import orjson
import typer
from pydantic import ValidationError
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..kernel.cli import Base, Command, Json, by_id, local, out, print_json
from ..kernel.principal import Principal
from .bulk.models import MAX_AT_ONCE, BulkCancel, BulkResult, BulkRetry
from .models import JobState
from .queues.models import QueueLimit, ShareChange
from .queues.service import Queues
from .service import Jobs

B = TypeVar("B", BulkRetry, BulkCancel)
commands = typer.Typer(help="Jobs: look, retry, cancel.", no_args_is_help=True)

Id = Annotated[UUID, typer.Argument(help="The job's id.")]
Queue = Annotated[str, typer.Argument(help="The queue's name.")]


@Command
async def _with_jobs(base: Base) -> AsyncIterator[tuple[Jobs, Principal]]:
    """Jobs without handlers, acting for the default tenant."""
    auth = Auth(base.db, base.clock, base.vault, Audit(base.db, base.clock, base.vault))
    yield Jobs(base.db, base.clock, base.settings), await auth.operator()


@Command
async def _with_queues(base: Base) -> AsyncIterator[tuple[Queues, Principal]]:
    audit = Audit(base.db, base.clock, base.vault)
    auth = Auth(base.db, base.clock, base.vault, audit)
    yield Queues(base.db, audit, auth), await auth.operator()


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
        print_json(found)
        return
    table = by_id("name", "queue", "state", "attempt", "run at", "error")
    for job in found:
        error = (job.error or "").splitlines()[0][:60] if job.error else ""
        far = f" {job.progress:.0%}" if job.state == JobState.RUNNING and job.progress is not None else ""
        table.add_row(str(job.id), job.name, job.queue, job.state + far, str(job.attempt), local(job.run_at), error)
    out.print(table if found else "no jobs")


@commands.command()
def show(id: Id, json: Json = False) -> None:
    """Show one job with its input."""
    job = _with_jobs(lambda jobs, by: jobs.get(by, id))
    if json:
        print_json(job)
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
        print_json(found)
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
    rate: Annotated[str | None, typer.Option(help="How many may start in a time, like 100/minute.")] = None,
) -> None:
    """Limit how many jobs of QUEUE run at once and start in a time, over all workers."""
    set_ = _with_queues(lambda queues, by: queues.limit(by, queue, QueueLimit(max_running=running, rate=rate)))
    told = [f"at most {set_.max_running} at once"] if set_.max_running is not None else []
    told += [f"at most {set_.rate} start"] if set_.rate else []
    out.print(f"{queue}: " + (", ".join(told) or "no limit"))


@commands.command()
def share(
    queue: Queue,
    tenant: Annotated[UUID, typer.Argument(help="The tenant's id.")],
    weight: Annotated[float, typer.Option(help="Its part of the starts is its weight over the sum of all.")] = 1.0,
    running: Annotated[int | None, typer.Option(min=0, help="How many of its jobs may run at once.")] = None,
) -> None:
    """Set what TENANT gets of QUEUE; without options: what every tenant gets."""
    if not 0 < weight <= 1_000:
        raise typer.BadParameter("a weight is above 0 and at most 1000", param_hint="--weight")
    change = ShareChange(weight=weight, max_running=running)
    _with_queues(lambda queues, by: queues.share(by, queue, tenant, change))
    out.print(
        f"{tenant} in {queue}: weight {weight:g}" + (f", at most {running} at once" if running is not None else "")
    )


Name = Annotated[str | None, typer.Option(help="Only jobs of this name.")]
Where = Annotated[str | None, typer.Option(help="Only this queue.")]
Error = Annotated[str | None, typer.Option(help="Only jobs whose error has this text in it.")]
Since = Annotated[datetime | None, typer.Option(help="Finished since then; a waiting job: created. In UTC.")]
Until = Annotated[datetime | None, typer.Option(help="Finished before then; a waiting job: created. In UTC.")]
Limit = Annotated[int, typer.Option(min=1, max=MAX_AT_ONCE, help="Stop after so many.")]


@commands.command("retry-all")
def retry_all(
    state: Annotated[list[JobState] | None, typer.Option(help="discarded (the default), cancelled, retryable.")] = None,
    queue: Where = None,
    name: Name = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 10_000,
    json: Json = False,
) -> None:
    """Run all the jobs again that fit; the dead ones unless --state says otherwise."""
    chosen = _chosen(BulkRetry, state, queue, name, error, since, until, limit)
    _tell(_with_jobs(lambda jobs, by: jobs.retry_many(by, chosen)), "wait again", json)


@commands.command("cancel-all")
def cancel_all(
    state: Annotated[
        list[JobState] | None, typer.Option(help="scheduled, available, retryable (the default), running.")
    ] = None,
    queue: Where = None,
    name: Name = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 10_000,
    json: Json = False,
) -> None:
    """Cancel all the jobs that fit; the waiting ones unless --state says otherwise."""
    chosen = _chosen(BulkCancel, state, queue, name, error, since, until, limit)
    _tell(_with_jobs(lambda jobs, by: jobs.cancel_many(by, chosen)), "cancelled", json)


def _chosen(
    kind: type[B],
    states: list[JobState] | None,
    queue: str | None,
    name: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> B:
    given = {"states": states, "queue": queue, "name": name, "error": error, "limit": limit}
    times = {"since": since and since.replace(tzinfo=UTC), "until": until and until.replace(tzinfo=UTC)}
    try:
        return kind.model_validate({field: value for field, value in (given | times).items() if value})
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}") from None


def _tell(result: BulkResult, what: str, json: bool) -> None:
    if json:
        print_json(result)
        return
    told = [f"{result.changed} {what}"]
    told += [f"{result.asked} will be stopped"] if result.asked else []
    told += [f"{result.skipped} left: a newer job with the same key waits"] if result.skipped else []
    told += [] if result.complete else ["the limit was reached: run it again for the rest"]
    out.print("; ".join(told))
