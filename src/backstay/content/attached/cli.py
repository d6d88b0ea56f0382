"""`backstay content attach|attached|resync|detach`: tables of your own, searched like collections."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...gateway import Gateway
from ...jobs import Jobs
from ...kernel.cli import Base, Command, Json, out, print_json
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from ..models import DEV_EMBEDDER
from ..service import Content
from .models import AttachedState, AttachedStatus, TableDefinition, name_of
from .service import PATIENCE, Attached

commands = typer.Typer()
Name = Annotated[str, typer.Argument(help="The attachment.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show the progress until all rows are taken over.")]
Patience = Annotated[float, typer.Option(help="Seconds that the table's writers wait at most.", min=0.01, max=600)]
_LOOK_EVERY = 0.5  # seconds


@Command
async def _with_attached(base: Base) -> AsyncIterator[tuple[Attached, Principal]]:
    """Attached tables as the operator sees them, without workers."""
    db, clock = base.db, base.clock
    audit, events = Audit(db, clock, base.vault), Events(db, clock)
    auth, jobs = Auth(db, clock, base.vault, audit), Jobs(db, clock, base.settings)
    gateway = Gateway(db, clock, base.vault, audit, events, base.settings)
    content = Content(db, clock, jobs, gateway, audit, events)
    yield Attached(db, clock, jobs, audit, events, auth, content), await auth.operator()


@commands.command()
def attach(
    table: Annotated[str, typer.Argument(help="The table, with its schema.")],
    key: Annotated[list[str], typer.Option(help="A column of its primary key; repeat it for each.")],
    text: Annotated[str, typer.Option(help="SQL expression over a row's columns that gives the searched text.")],
    name: Annotated[str | None, typer.Option(help="What to search it as; its own name when missing.")] = None,
    tenant_column: Annotated[str | None, typer.Option(help="Column that says whose a row is.")] = None,
    owner: Annotated[UUID | None, typer.Option(help="Tenant that has every row; `default` when missing.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Further column for hits and filters; repeatable.")] = None,
    embedder: Annotated[str, typer.Option(help="provider:model, or `none` for text search only.")] = DEV_EMBEDDER,
    patience: Patience = PATIENCE,
    watch: Watch = False,
    json: Json = False,
) -> None:
    """Have the rows of TABLE searched, and every later change of them. Workers take them over."""
    try:
        definition = TableDefinition(
            table=table,
            key=tuple(key),
            text=text,
            tenant=tenant_column,
            owner=owner,
            columns=tuple(column or ()),
            embedder=None if embedder == "none" else embedder,
        )
    except ValidationError as error:
        raise Invalid(f"{table} cannot be attached so: {error.errors()[0]['msg']}") from None
    chosen = name or name_of(table)
    found = _with_attached(lambda attached, by: attached.attach(by, chosen, definition, patience=patience))
    _show([_with_attached(lambda attached, by: _watch(attached, by, chosen)) if watch else found], json)


@commands.command()
def attached(
    name: Annotated[str | None, typer.Argument(help="One of them only.")] = None,
    watch: Watch = False,
    json: Json = False,
) -> None:
    """Show the attached tables and how far they are."""
    if name is None:
        _show(_with_attached(lambda attached, by: attached.list(by, limit=1_000)), json)
        return
    chosen = name
    look = _watch if watch else Attached.status
    _show([_with_attached(lambda attached, by: look(attached, by, chosen))], json)


@commands.command()
def resync(name: Name, watch: Watch = False, json: Json = False) -> None:
    """Have every row looked at again; what is the same costs no embedding."""
    found = _with_attached(lambda attached, by: attached.resync(by, name))
    _show([_with_attached(lambda attached, by: _watch(attached, by, name)) if watch else found], json)


@commands.command()
def detach(
    name: Name,
    purge: Annotated[bool, typer.Option("--purge", help="Delete its documents, chunks and vectors, too.")] = False,
    patience: Patience = PATIENCE,
    json: Json = False,
) -> None:
    """Take the triggers from an attached table, which is left alone itself."""
    _show([_with_attached(lambda attached, by: attached.detach(by, name, purge=purge, patience=patience))], json)


async def _watch(attached: Attached, by: Principal, name: str) -> AttachedStatus:
    """Shows a bar until the table is current, or cannot become so."""
    bar = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, console=out, transient=True) as progress:
        line = progress.add_task(name, total=None)
        while True:
            found = await attached.status(by, name)
            progress.update(line, total=max(found.rows, found.seen), completed=found.seen)
            if found.current or found.state is not AttachedState.ATTACHED:
                return found
            await asyncio.sleep(_LOOK_EVERY)


def _show(found: list[AttachedStatus], json: bool) -> None:
    if json:
        print_json(found[0] if len(found) == 1 else found)
        return
    table = Table("name", "table", "state", "rows seen", "refused", "waiting", "lag", box=None, pad_edge=False)
    for one in found:
        state = "filling" if one.filling and one.state is AttachedState.ATTACHED else str(one.state)
        counts = (f"{one.seen} of {max(one.rows, one.seen)}", str(one.refused), str(one.waiting), f"{one.lag:.1f} s")
        table.add_row(escape(one.name), escape(one.definition.table), state, *counts)
    out.print(table if found else "no table is attached")
    for one in found:
        for said in filter(None, (one.trouble, one.refusal)):
            out.print(f"{escape(one.name)}: {escape(said)}")
