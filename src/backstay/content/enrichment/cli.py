"""`backstay enrich`: have a model fill fields of documents. For the default tenant."""

from collections.abc import AsyncIterator
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...gateway import Gateway
from ...jobs import Jobs
from ...kernel.cli import Base, Command, Json, by_id, local, out, print_json
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from ..service import Content
from .models import Enrichment
from .service import Enrichments

commands = typer.Typer(help="Have a model fill fields of documents.", no_args_is_help=True)
Collection = Annotated[str, typer.Argument(help="The collection.")]
FieldName = Annotated[str, typer.Argument(help="The field of the body.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many.")]


@Command
async def _with_enrichments(base: Base) -> AsyncIterator[tuple[Enrichments, Principal]]:
    """Enrichments of the default tenant, without workers."""
    db, clock = base.db, base.clock
    audit, events = Audit(db, clock, base.vault), Events(db, clock)
    gateway, jobs = Gateway(db, clock, base.vault, audit, events, base.settings), Jobs(db, clock, base.settings)
    by = await Auth(db, clock, base.vault, audit).operator()
    content = Content(db, clock, jobs, gateway, audit, events)
    yield Enrichments(db, clock, jobs, gateway, audit, content), by


@commands.command("list")
def list_(collection: Collection, json: Json = False) -> None:
    """List the fields that models fill, how far that is, and what it has cost."""
    found = _with_enrichments(lambda enrichments, by: enrichments.standings(by, collection))
    if json:
        print_json(found)
        return
    table = Table("field", "model", "waiting", "done", "failed", "USD", box=None, pad_edge=False)
    for one in found:
        counts = (str(one.waiting), str(one.done), str(one.failed), f"{one.cost:f}")
        table.add_row(escape(one.field), escape(one.model), *counts)
    out.print(table if found else f"models fill no field of {escape(collection)}")


@commands.command("set")
def set_(
    collection: Collection,
    field: FieldName,
    model: Annotated[str, typer.Option(help="A route, or provider:model.")],
    prompt: Annotated[str, typer.Option(help="What is asked; {title} stands for a field of the body.")],
    max_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Of the answer.")] = 500,
) -> None:
    """Have a model fill a field of every document that lacks it, now and later."""
    try:
        enrichment = Enrichment(model=model, prompt=prompt, max_tokens=max_tokens)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise Invalid(f"{first['loc'][0]}: {first['msg']}") from None
    new = _with_enrichments(lambda enrichments, by: enrichments.declare(by, collection, field, enrichment))
    out.print("documents that stand are gone through by the workers" if new else "it stands so already")


@commands.command()
def rm(collection: Collection, field: FieldName) -> None:
    """Fill a field no longer. What was filled stays in the documents."""
    _with_enrichments(lambda enrichments, by: enrichments.remove(by, collection, field))
    out.print(f"no model fills {escape(field)} any more")


@commands.command()
def failed(collection: Collection, field: FieldName, limit: Limit = 50, json: Json = False) -> None:
    """List the documents whose field could not be filled, and why."""
    found = _with_enrichments(lambda enrichments, by: enrichments.failed(by, collection, field, limit=limit))
    if json:
        print_json(found)
        return
    table = by_id("since", "error")
    for one in found:
        table.add_row(escape(one.id), local(one.since), escape(one.error))
    out.print(table if found else "none has failed")


@commands.command()
def retry(collection: Collection, field: FieldName) -> None:
    """Try those again that have failed."""
    tried = _with_enrichments(lambda enrichments, by: enrichments.retry(by, collection, field))
    out.print(f"{tried} documents wait for the model again")
