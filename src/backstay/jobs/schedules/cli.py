"""`backstay schedules`: look at schedules, pause, resume, run and delete them."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...kernel.cli import Base, Command, Json, local, out, print_json
from ...kernel.principal import Principal
from ..service import Jobs
from .service import Schedules

commands = typer.Typer(help="Schedules: look, pause, resume, run, delete.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The schedule's name.")]
_ALL = 10_000


@Command
async def _with_schedules(base: Base) -> AsyncIterator[tuple[Schedules, Principal]]:
    audit = Audit(base.db, base.clock, base.vault)
    jobs = Jobs(base.db, base.clock, base.settings)
    auth = Auth(base.db, base.clock, base.vault, audit)
    yield Schedules(base.db, base.clock, jobs, audit), await auth.operator()


@commands.command("list")
def list_(json: Json = False) -> None:
    """List the schedules of the default tenant."""
    found = _with_schedules(lambda schedules, by: schedules.list(by, limit=_ALL))
    if json:
        print_json(found)
        return
    table = Table("name", "job", "cron", "time zone", "next", "last", box=None, pad_edge=False)
    for one in found:
        following = "paused" if one.paused else _time(one.next_at)
        table.add_row(one.name, one.job, one.cron, one.timezone, following, _time(one.last_at))
    out.print(table if found else "no schedules")


@commands.command()
def show(name: Name, json: Json = False) -> None:
    """Show one schedule, its next times and its last firings."""
    found = _with_schedules(lambda schedules, by: schedules.get(by, name))
    if json:
        print_json(found)
        return
    fires = _with_schedules(lambda schedules, by: schedules.fires(by, name, limit=5))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("job", found.job)
    table.add_row("cron", f"{found.cron} ({found.timezone})" + (", paused" if found.paused else ""))
    table.add_row("next", ", ".join(map(local, found.coming)))
    for fire in fires:
        table.add_row("fired", f"{local(fire.at)}  job {fire.job_id}")
    out.print(table)


@commands.command()
def pause(name: Name) -> None:
    """Let a schedule fire no more until it is resumed."""
    _with_schedules(lambda schedules, by: schedules.pause(by, name))
    out.print(f"{name} is paused")


@commands.command()
def resume(name: Name) -> None:
    """Let a schedule fire again, from its next time on."""
    found = _with_schedules(lambda schedules, by: schedules.resume(by, name))
    out.print(f"{name} fires next at {_time(found.next_at)}")


@commands.command()
def run(name: Name) -> None:
    """Enqueue a schedule's job now, besides its times."""
    job = _with_schedules(lambda schedules, by: schedules.run_now(by, name))
    out.print(f"job {job} is enqueued")


@commands.command()
def delete(name: Name) -> None:
    """Remove a schedule. Jobs that it has enqueued stay."""
    _with_schedules(lambda schedules, by: schedules.delete(by, name))
    out.print(f"{name} is deleted")


def _time(at: datetime | None) -> str:
    return "never" if at is None else local(at)
