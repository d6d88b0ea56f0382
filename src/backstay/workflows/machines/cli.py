"""`backstay machines`: look at state machines and their instances, send events, print diagrams."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...jobs import Jobs
from ...kernel.cli import Base, Command, Json, by_id, local, out, print_json, read_json
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from .mermaid import diagram as drawn
from .service import Machines

commands = typer.Typer(help="State machines: definitions, instances, events, diagrams.", no_args_is_help=True)
Id = Annotated[UUID, typer.Argument(help="The instance's id.")]
Name = Annotated[str, typer.Argument(help="The machine's name.")]
_ALL = 10_000


@Command
async def _with_machines(base: Base) -> AsyncIterator[tuple[Machines, Principal]]:
    """Machines without code, acting for the default tenant."""
    audit, jobs = Audit(base.db, base.clock, base.vault), Jobs(base.db, base.clock, base.settings)
    by = await Auth(base.db, base.clock, base.vault, audit).operator()
    yield Machines(base.db, base.clock, jobs, audit, Events(base.db, base.clock)), by


@commands.command("list")
def list_(json: Json = False) -> None:
    """List the registered machines, every version."""
    found = _with_machines(lambda machines, by: machines.definitions(by, limit=_ALL))
    if json:
        print_json(found)
        return
    table = Table("machine", "version", "initial", "states", "registered", box=None, pad_edge=False)
    for machine in found:
        states = ", ".join(state.name for state in machine.states)
        table.add_row(
            *map(escape, (machine.name, machine.version, machine.initial, states)), local(machine.registered_at)
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
        print_json(found)
        return
    table = by_id("machine", "version", "key", "state", "since", "times out")
    for item in found:
        named = map(escape, (item.machine, item.version, item.key or "", item.state))
        table.add_row(str(item.id), *named, local(item.entered_at), local(item.due_at) if item.due_at else "")
    out.print(table if found else "no instances")


@commands.command()
def show(id: Id, json: Json = False) -> None:
    """Show one instance with its history."""
    found = _with_machines(lambda machines, by: machines.get(id, by=by))
    if json:
        print_json(found)
        return
    about = {
        "instance": str(found.id),
        "machine": f"{found.machine}, version {found.version}",
        "key": found.key,
        "state": found.state,
        "takes": ", ".join(found.allowed) or "nothing",
        "times out": local(found.due_at) if found.due_at else None,
        "data": orjson.dumps(found.data).decode(),
    }
    for name, value in about.items():
        if value is not None:
            out.print(f"{name:<10} {escape(value)}")
    table = Table("step", "event", "from", "to", "at", "by", box=None, pad_edge=False)
    for step in found.history:
        named = map(escape, (step.event or "", step.from_state or "", step.to_state))
        table.add_row(str(step.seq), *named, local(step.at), escape(step.actor))
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
def delete(id: Id) -> None:
    """Delete an instance with its data and history. Its audit entries stay."""
    _with_machines(lambda machines, by: machines.delete(id, by=by))
    out.print(f"instance {id} is deleted")


@commands.command()
def diagram(
    name: Name,
    version: Annotated[str | None, typer.Option(help="This version; the newest without it.")] = None,
) -> None:
    """Print a machine as a Mermaid stateDiagram-v2."""
    definition = _with_machines(lambda machines, by: machines.definition(by, name, version))
    typer.echo(drawn(definition), nl=False)


def _object(text: str) -> dict[str, Any]:
    found = read_json(text, "--data")
    if not isinstance(found, dict):
        raise Invalid("--data is a JSON object, such as '{\"amount\": 7}'")
    return found
