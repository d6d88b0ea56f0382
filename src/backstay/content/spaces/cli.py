"""`backstay spaces`: change a collection's embedding model. For the default tenant."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter
from rich.markup import escape
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...gateway import Gateway
from ...jobs import Jobs
from ...kernel.cli import Base, Command, Json, local, out, print_json
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from ..embedding import Pipeline
from ..indexes.cli import index
from ..indexes.indexer import Indexer
from ..search import Searcher
from .models import Judgement, SpaceStanding
from .service import LOSS, RECALL, Spaces

commands = typer.Typer(help="Change a collection's embedding model.", no_args_is_help=True)
commands.command()(index)
Collection = Annotated[str, typer.Argument(help="The collection.")]
Id = Annotated[int, typer.Argument(help="The space.", min=1)]
Model = Annotated[str, typer.Argument(help="provider:model of the embedder.")]


@Command
async def _with_spaces(base: Base) -> AsyncIterator[tuple[Spaces, Principal]]:
    """Spaces of the default tenant, without workers."""
    db, clock = base.db, base.clock
    audit, events = Audit(db, clock, base.vault), Events(db, clock)
    gateway, jobs = Gateway(db, clock, base.vault, audit, events, base.settings), Jobs(db, clock, base.settings)
    by = await Auth(db, clock, base.vault, audit).operator()
    pipeline = Pipeline(db, clock, jobs, gateway, events, limits=None, indexer=Indexer(db, clock, jobs))
    await gateway.start()
    try:
        yield Spaces(db, clock, jobs, gateway, audit, events, pipeline, Searcher(db, gateway)), by
    finally:
        await gateway.stop()


@commands.command("list")
def list_(collection: Collection, json: Json = False) -> None:
    """List the spaces of a collection, the one that is searched first."""
    found = _with_spaces(lambda spaces, by: spaces.list(by, collection))
    if json:
        print_json(found)
        return
    _show(found)


@commands.command()
def migrate(
    collection: Collection,
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the price is right.")] = False,
    json: Json = False,
) -> None:
    """Begin a change to another embedding model, after showing what it costs."""
    seen = _with_spaces(lambda spaces, by: spaces.preview(by, collection, model))
    if not yes:
        out.print(f"{seen.chunks} chunks, about {seen.tokens} tokens, at most {seen.cost:f} USD")
        typer.confirm("Begin?", abort=True)
    begun = _with_spaces(lambda spaces, by: spaces.migrate(by, collection, model))
    if json:
        print_json(begun)
        return
    _show([begun])


@commands.command()
def switch(
    collection: Collection,
    space: Id,
    recall: Annotated[float, typer.Option(help="Share of the nearest ten that a search must find.", min=0, max=1)] = (
        RECALL
    ),
    loss: Annotated[float, typer.Option(help="How much lower nDCG@10 of judged queries may be.", min=0, max=1)] = LOSS,
    force: Annotated[bool, typer.Option("--force", help="Though it is not ready; the audit keeps why not.")] = False,
) -> None:
    """Search another space from now on, when it is ready."""
    _show(
        [_with_spaces(lambda spaces, by: spaces.switch(by, collection, space, recall=recall, loss=loss, force=force))]
    )


@commands.command()
def judge(
    collection: Collection,
    file: Annotated[Path, typer.Argument(help='Lines like {"query": "…", "relevant": {"id": 1}}.', dir_okay=False)],
) -> None:
    """Say which documents queries should find, in place of what was said before; `switch` compares models by it."""
    judged = _judgements(file)
    _with_spaces(lambda spaces, by: spaces.judgements.put(by, collection, judged))
    out.print(f"{len(judged)} judged queries")


def _judgements(file: Path) -> list[Judgement]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        return [TypeAdapter(Judgement).validate_json(line) for line in lines]
    except ValueError:
        raise Invalid(f'{file} has a line that is not like {{"query": "…", "relevant": {{"id": 1}}}}') from None


@commands.command()
def rollback(collection: Collection) -> None:
    """Search the space again that was searched before."""
    _show([_with_spaces(lambda spaces, by: spaces.rollback(by, collection))])


@commands.command()
def retire(collection: Collection, space: Id) -> None:
    """Give up a space that is not searched, and delete its vectors."""
    _show([_with_spaces(lambda spaces, by: spaces.retire(by, collection, space))])


@commands.command("check-recall")
def check_recall(
    collection: Collection,
    queries: Annotated[int, typer.Option(help="Vectors that are looked for.", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """Measure what share of the nearest ten vectors a search finds."""
    found = _with_spaces(lambda spaces, by: spaces.check_recall(by, collection, queries=queries))
    if json:
        print_json(found)
        return
    how = "every vector is looked at" if found.exact else "by the index"
    out.print(f"recall@{found.k} {found.recall:.3f} over {found.queries} queries, {how}")


def _show(spaces: list[SpaceStanding]) -> None:
    table = Table(
        "space", "model", "state", "since", "embedded", "pending", "parked", "index", box=None, pad_edge=False
    )
    for one in spaces:
        counts = (f"{one.embedded} of {one.chunks}", str(one.pending), str(one.parked))
        since = local(one.since) if one.since else ""
        table.add_row(str(one.id), escape(one.model), one.state, since, *counts, escape(_index(one)))
    out.print(table)


def _index(space: SpaceStanding) -> str:
    """What stands, and how far the next one is."""
    stands = space.index or "none"
    if space.build is None:
        return stands
    if space.build_error is not None:
        return f"{stands}; {space.build} failed: {space.build_error}"
    share = "" if space.build_share is None else f" {space.build_share:.0%}"
    return f"{stands}; builds {space.build}: {space.build_phase}{share}"
