"""`backstay machines`: look at state machines and their instances, send events, print diagrams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...jobs import Jobs
from ...kernel.clock import SystemClock
from ...kernel.crypto import Vault
from ...kernel.db import Database
from ...kernel.embedded import EmbeddedPostgres
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from ...kernel.settings import Settings
from .mermaid import diagram as drawn
from .service import Machines

T = TypeVar("T")
commands = typer.Typer(help="State machines: definitions, instances, events, diagrams.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[UUID, typer.Argument(help="The instance's id.")]
Name = Annotated[str, typer.Argument(help="The machine's name.")]
_ALL = 10_000


@commands.command("list")
def list_(json: Json = False) -> None:
    """List the registered machines, every version."""
    found = _with_machines(lambda machines, by: machines.definitions(by, limit=_ALL))
    if json:
        _print_json(found)
        return
    table = Table("machine", "version", "initial", "states", "registered", box=None, pad_edge=False)
    for machine in found:
        states = ", ".join(state.name for state in machine.states)
        table.add_row(
            *map(escape, (machine.name, machine.version, machine.initial, states)), _time(machine.registered_at)
        )
    out.print(table if found else "no machines")


@commands.command()
def instances(
    machine: Annotated[str | None, typer.Option(help="Only this machine.")] = None,
    state: Annotated[str | None, typer.Option(help="Only this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    json: Json = False,
) -> None:
    """List the newest instances."""
    found = _with_machines(lambda machines, by: machines.list(by, limit=limit, machine=machine, state=state))
    if json:
        _print_json(found)
        return
    table = Table("id", "machine", "version", "key", "state", "since", "times out", box=None, pad_edge=False)
    for item in found:
        named = map(escape, (item.machine, item.version, item.key or "", item.state))
        table.add_row(str(item.id), *named, _time(item.entered_at), _time(item.due_at) if item.due_at else "")
    out.print(table if found else "no instances")


@commands.command()
def show(id: Id, json: Json = False) -> None:
    """Show one instance with its history."""
    found = _with_machines(lambda machines, by: machines.get(id, by=by))
    if json:
        _print_json(found)
        return
    about = {
        "instance": str(found.id),
        "machine": f"{found.machine}, version {found.version}",
        "key": found.key,
        "state": found.state,
        "takes": ", ".join(found.allowed) or "nothing",
        "times out": _time(found.due_at) if found.due_at else None,
        "data": orjson.dumps(found.data).decode(),
    }
    for name, value in about.items():
        if value is not None:
            out.print(f"{name:<10} {escape(value)}")
    table = Table("step", "event", "from", "to", "at", "by", box=None, pad_edge=False)
    for step in found.history:
        named = map(escape, (step.event or "", step.from_state or "", step.to_state))
        table.add_row(str(step.seq), *named, _time(step.at), escape(step.actor))
    out.print(table)


@commands.command()
def send(
    id: Id,
    event: Annotated[str, typer.Argument(help="The event.")],
    data: Annotated[str, typer.Option(help="A JSON object that comes with it.")] = "{}",
) -> None:
    """Send an EVENT to an instance. What a guard of your program decides has to be sent to the running server."""
    moved = _with_machines(lambda machines, by: machines.send(id, event, data=_object(data), by=by))
    out.print(f"instance {moved.id} is {escape(moved.state)}")


@commands.command()
def diagram(
    name: Name,
    version: Annotated[str | None, typer.Option(help="This version; the newest without it.")] = None,
) -> None:
    """Print a machine as a Mermaid stateDiagram-v2."""
    definition = _with_machines(lambda machines, by: machines.definition(by, name, version))
    typer.echo(drawn(definition), nl=False)


def _object(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"--data is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Invalid("--data is a JSON object, such as '{\"amount\": 7}'")
    return found


def _with_machines(work: Callable[[Machines, Principal], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _machines() as (machines, by):
            return await work(machines, by)

    return asyncio.run(run())


@asynccontextmanager
async def _machines() -> AsyncIterator[tuple[Machines, Principal]]:
    """Machines without code, acting for the default tenant."""
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
        machines = Machines(db, clock, Jobs(db, clock, settings), audit, Events(db, clock))
        yield machines, Principal.system(tenant.id, "command line")


def _print_json(found: BaseModel | list[T]) -> None:
    rows = (
        found.model_dump(mode="json")
        if isinstance(found, BaseModel)
        else [row.model_dump(mode="json") for row in found if isinstance(row, BaseModel)]
    )
    typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
