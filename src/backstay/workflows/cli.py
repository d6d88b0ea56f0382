"""`backstay runs`: look at runs and their steps."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..events import Events
from ..jobs import Jobs
from ..kernel.cli import Base, Command, Json, by_id, local, out, print_json, read_json
from ..kernel.principal import Principal
from .models import RunState
from .service import Workflows

commands = typer.Typer(help="Runs and their steps.", no_args_is_help=True)


@Command
async def _with_workflows(base: Base) -> AsyncIterator[tuple[Workflows, Principal]]:
    """Workflows without code, acting for the default tenant."""
    audit, jobs = Audit(base.db, base.clock, base.vault), Jobs(base.db, base.clock, base.settings)
    by = await Auth(base.db, base.clock, base.vault, audit).operator()
    yield Workflows(base.db, base.clock, jobs, audit, Events(base.db, base.clock)), by


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
        print_json(found)
        return
    table = by_id("workflow", "version", "state", "taken up", "created", "error")
    for run in found:
        error = run.error.splitlines()[0][:60] if run.error else ""
        created = local(run.created_at)
        table.add_row(str(run.id), run.workflow, run.version, run.state, str(run.attempt), created, error)
    out.print(table if found else "no runs")


@commands.command()
def show(id: Annotated[UUID, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Show one run with its steps."""
    run = _with_workflows(lambda runs, by: runs.get(by, id))
    if json:
        print_json(run)
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


@commands.command()
def cancel(
    id: Annotated[UUID, typer.Argument(help="The run's id.")],
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
) -> None:
    """Cancel a run: one that waits at once, one that runs as soon as it can stop."""
    run = _with_workflows(lambda runs, by: runs.cancel(by, id, reason=reason))
    out.print(f"run {run.id} is {run.state}" + (" and was asked to stop" if not run.state.finished else ""))


@commands.command()
def signal(
    id: Annotated[UUID, typer.Argument(help="The run's id.")],
    name: Annotated[str, typer.Argument(help="The signal's name.")],
    payload: Annotated[str, typer.Option(help="What comes with it, as JSON.")] = "null",
    key: Annotated[str | None, typer.Option(help="A second signal with the same key is not sent.")] = None,
) -> None:
    """Send a signal to a run. What your program declares of its signals is checked by the running server only."""
    value = read_json(payload, "--payload")
    sent = _with_workflows(lambda runs, by: runs.send_signal(id, name, value, by=by, key=key))
    out.print(f"signal {sent.number} of run {id}: {escape(sent.name)}")


@commands.command()
def retry(id: Annotated[UUID, typer.Argument(help="The run's id.")]) -> None:
    """Have a failed or nondeterministic run go on from where it stood."""
    _with_workflows(lambda runs, by: runs.mending.retry(by, id))
    out.print(f"run {id} is taken up again")


@commands.command()
def move(
    id: Annotated[UUID, typer.Argument(help="The run's id.")],
    version: Annotated[str, typer.Argument(help="The version it is to go on in.")],
) -> None:
    """Have a run go on in another version of its workflow."""
    _with_workflows(lambda runs, by: runs.mending.move(by, id, version))
    out.print(f"run {id} goes on in version {escape(version)}")


@commands.command()
def fork(
    id: Annotated[UUID, typer.Argument(help="The run's id.")],
    step: Annotated[int, typer.Argument(min=0, help="The first step that is taken anew.")],
    version: Annotated[str | None, typer.Option(help="The new run's version; the same when missing.")] = None,
) -> None:
    """Start a new run that takes over the finished steps below a number."""
    forked = _with_workflows(lambda runs, by: runs.mending.fork(by, id, step, version=version))
    out.print(f"run {forked} goes on from step {step}")


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 200 else f"{text[:199]}…"
