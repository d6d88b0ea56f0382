"""`backstay spaces index`: what the index of a collection's vectors is, what it should be, and another kind."""

from collections.abc import AsyncIterator
from typing import Annotated

import typer
from rich.markup import escape

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...jobs import Jobs
from ...kernel.cli import Base, Command, Json, out, print_json
from ...kernel.principal import Principal
from ..models import IndexKind
from .indexer import Indexer
from .models import Advice
from .service import Indexes

Collection = Annotated[str, typer.Argument(help="The collection.")]


@Command
async def _with_indexes(base: Base) -> AsyncIterator[tuple[Indexes, Principal]]:
    """Indexes, without workers."""
    db, clock = base.db, base.clock
    audit = Audit(db, clock, base.vault)
    auth = Auth(db, clock, base.vault, audit)
    indexer = Indexer(db, clock, Jobs(db, clock, base.settings), memory_mb=base.settings.index_memory_mb)
    yield Indexes(db, audit, auth, Events(db, clock), indexer), await auth.operator()


def index(
    collection: Collection,
    kind: Annotated[IndexKind | None, typer.Option(help="Choose this kind; workers build it.")] = None,
    space: Annotated[int | None, typer.Option(help="The one that is searched, when missing.", min=1)] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Also where that kind stands already.")] = False,
    json: Json = False,
) -> None:
    """Show which index the vectors have, how its build goes and what suits; or choose another kind."""
    if kind is None:
        advice = _with_indexes(lambda indexes, by: indexes.advise(by, collection, space=space))
    else:
        advice = _with_indexes(lambda indexes, by: indexes.choose(by, collection, kind, space=space, rebuild=rebuild))
    if json:
        print_json(advice)
        return
    _show(advice)


def _show(advice: Advice) -> None:
    state = advice.state
    out.print(f"space {state.space} ({escape(state.model)}), about {state.rows} vectors, {_size(state.table_bytes)}")
    lists = f" with {state.lists} lists" if state.lists else ""
    out.print(f"index {state.standing}{lists}; asked for: {state.wish}; suits: {advice.recommended}")
    if advice.recommended is not IndexKind.NONE:
        out.print(
            f"{advice.recommended} takes about {_size(advice.index_bytes)}, its build {_size(advice.build_bytes)} of "
            f"memory and {advice.build_seconds:.0f} s"
        )
    if advice.build is not None:
        share = "" if advice.build.share is None else f" {advice.build.share:.0%}"
        how = f"failed: {escape(advice.build.error)}" if advice.build.error else f"{advice.build.phase}{share}"
        out.print(f"a build of {advice.build.kind}: {how}")
    for finding in advice.findings:
        out.print(f"[yellow]{finding.code}[/yellow] {escape(finding.detail)}. Mend: {escape(finding.mend)}")


def _size(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MB"
