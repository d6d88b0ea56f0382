"""`backstay content`: ingest a folder, search, see the coverage. For the default tenant."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..events import Events
from ..gateway import Gateway
from ..jobs import Jobs
from ..kernel.cli import Base, Command, Json, by_id, local, out, print_json, read_json
from ..kernel.errors import ConfigurationError
from ..kernel.principal import Principal
from .enrichment import Enrichments
from .files import FILE_SUFFIXES, FileUnreadable, Kind, ReaderMissing
from .models import DEV_EMBEDDER, Coverage, Definition
from .service import MAX_BATCH, Content

commands = typer.Typer(help="Ingest and search documents.", no_args_is_help=True)
_MAX_BYTES = 32 * 1024 * 1024
_AT_ONCE = min(100, MAX_BATCH)

Collection = Annotated[str, typer.Option(help="The collection.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many.")]


@Command
async def _with_content(base: Base) -> AsyncIterator[tuple[Content, Principal]]:
    """Content of the default tenant, without workers."""
    audit, events = Audit(base.db, base.clock, base.vault), Events(base.db, base.clock)
    gateway = Gateway(base.db, base.clock, base.vault, audit, events, base.settings)
    by = await Auth(base.db, base.clock, base.vault, audit).operator()
    await gateway.start()
    jobs = Jobs(base.db, base.clock, base.settings)
    content = Content(base.db, base.clock, jobs, gateway, audit, events)
    Enrichments(base.db, base.clock, jobs, gateway, audit, content)  # takes part in what is written
    try:
        yield content, by
    finally:
        await gateway.stop()


@commands.command()
def ingest(
    folder: Annotated[Path, typer.Argument(help="Markdown, text, HTML, PDF and DOCX files below it become documents.")],
    collection: Collection = "docs",
    embedder: Annotated[
        str, typer.Option(help="provider:model of a new collection, or `none` for text search only.")
    ] = DEV_EMBEDDER,
) -> None:
    """Put every Markdown, text, HTML, PDF and DOCX file below FOLDER into a collection. Workers embed them afterwards.

    A document's id is the file's path in FOLDER. Files that did not change cost nothing.
    """
    files = _files(folder)
    definition = Definition(embedder=None if embedder == "none" else embedder)
    changed, coverage = _with_content(lambda content, by: _ingest(content, by, folder, files, collection, definition))
    out.print(f"{len(files)} documents read, {changed} changed; {coverage.chunks} chunks, {coverage.pending} to embed")


@commands.command()
def search(
    query: Annotated[str, typer.Argument(help="Words, or a question.")],
    collection: Collection = "docs",
    mode: Annotated[str, typer.Option(help="auto, text, semantic or hybrid.")] = "auto",
    k: Annotated[int, typer.Option("-k", help="Hits wanted.", min=1, max=200)] = 5,
    json: Json = False,
) -> None:
    """Search a collection."""
    answer = _with_content(lambda content, by: content.search(by, collection, query, mode=mode, k=k))
    if json:
        print_json(answer)
        return
    out.print(f"[dim]mode {answer.mode}{', ' if answer.flags else ''}{', '.join(answer.flags)}[/dim]")
    for place, hit in enumerate(answer.hits, start=1):
        where = " > ".join(hit.heading)
        out.print(f"\n{place}. [bold]{escape(hit.id)}[/bold]  {hit.score:.3f}  [dim]{escape(where)}[/dim]")
        out.print(escape(" ".join(hit.text.split())[:300]))


@commands.command()
def explain(
    query: Annotated[str, typer.Argument(help="Words, or a question.")],
    collection: Collection = "docs",
    mode: Annotated[str, typer.Option(help="auto, text, semantic or hybrid.")] = "auto",
    where: Annotated[str, typer.Option(help="A filter as JSON.")] = "{}",
    json: Json = False,
) -> None:
    """Search a collection and tell how it went: mode, words, legs, filter, times, advice."""
    chosen = read_json(where, "--where")
    told = _with_content(lambda content, by: content.explain(by, collection, query, mode=mode, where=chosen))
    if json:
        print_json(told.model_dump(mode="json"))
        return
    out.print(f"mode {told.mode}: {escape(told.why)}; {told.hits} hits in {told.seconds * 1000:.1f} ms")
    out.print(
        f"[dim]flags {', '.join(told.flags) or 'none'}; {told.chunks} chunks of {told.mean_length:.0f} terms[/dim]"
    )
    words = Table("term", "chunks", "idf", box=None, pad_edge=False)
    for term in told.terms:
        words.add_row(escape(term.term), str(term.chunks), f"{term.idf:.2f}")
    out.print(words)
    for leg in told.legs:
        out.print(f"{leg.leg}: {leg.how}, {leg.candidates} candidates, {leg.seconds * 1000:.1f} ms; {escape(leg.why)}")
    if told.filter is not None:
        out.print(f"filter: {told.filter.passing} of {told.filter.documents} documents pass")
    for advice in told.advice:
        out.print(escape("\n  ".join(filter(None, (f"- {advice.text}", advice.ddl)))))


@commands.command()
def coverage(collection: Collection = "docs", json: Json = False) -> None:
    """Show how much of a collection has vectors."""
    found = _with_content(lambda content, by: content.coverage(by, collection))
    if json:
        print_json(found)
        return
    counted = {name: value for name, value in asdict(found).items() if name not in ("rests_until", "trouble")}
    table = Table(*counted, box=None, pad_edge=False)
    table.add_row(*(f"{value:.1f} s" if name == "lag" else str(value) for name, value in counted.items()))
    out.print(table)
    if found.rests_until is not None:
        out.print(f"the embedder is not asked before {local(found.rests_until)}: {escape(found.trouble or '')}")


@commands.command()
def parked(collection: Collection = "docs", limit: Limit = 50, json: Json = False) -> None:
    """List the chunks that the embedder refused, and why."""
    found = _with_content(lambda content, by: content.parked(by, collection, limit=limit))
    if json:
        print_json(found)
        return
    table = by_id("document", "since", "error")
    for chunk in found:
        table.add_row(str(chunk.chunk), escape(chunk.id), local(chunk.since), escape(chunk.error))
    out.print(table if found else "nothing is parked")


@commands.command("retry-parked")
def retry_parked(collection: Collection = "docs") -> None:
    """Try the chunks again that the embedder refused, and ask an embedder that rests."""
    tried = _with_content(lambda content, by: content.retry_parked(by, collection))
    out.print(f"{tried} chunks wait for the embedder again")


@commands.command("embed-calls")
def embed_calls(collection: Collection = "docs", limit: Limit = 50, json: Json = False) -> None:
    """List the newest requests to the embedder, and what they cost."""
    found = _with_content(lambda content, by: content.embed_calls(by, collection, limit=limit))
    if json:
        print_json(found)
        return
    table = by_id("state", "inputs", "tokens", "cost", "asked at", "error")
    for call in found:
        cost = "" if call.cost is None else f"{call.cost:f}"
        counts = (str(call.inputs), str(call.tokens), cost)
        table.add_row(str(call.id), call.state, *counts, local(call.asked_at), escape(call.error or ""))
    out.print(table if found else "no requests")


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FILE_SUFFIXES and path.is_file())
    if not files:
        raise ConfigurationError(f"{folder} has no documents: {', '.join(sorted(FILE_SUFFIXES))} files are read")
    return files


def _small(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    for path in files:
        if path.stat().st_size > _MAX_BYTES:
            out.print(f"[yellow]left out[/yellow] {escape(str(path))}: larger than {_MAX_BYTES >> 20} MB")
        else:
            yield path, path.read_bytes()


async def _documents(content: Content, folder: Path, files: list[Path]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    for path, data in _small(files):
        try:
            yield path.relative_to(folder).as_posix(), await _body(content, path, data)
        except (FileUnreadable, ReaderMissing) as error:
            out.print(f"[yellow]left out[/yellow] {escape(str(path))}: {escape(error.detail)}")


async def _body(content: Content, path: Path, data: bytes) -> dict[str, Any]:
    if FILE_SUFFIXES[path.suffix.lower()] not in (Kind.MARKDOWN, Kind.PLAIN):
        return (await content.read_file(data, name=path.name)).body
    try:
        # Nothing to be read out of them, so no process for each of thousands.
        return {"text": data.decode("utf-8-sig").replace("\0", "")}
    except UnicodeDecodeError:
        raise FileUnreadable("not UTF-8 text") from None


async def _ingest(
    content: Content, by: Principal, folder: Path, files: list[Path], collection: str, definition: Definition
) -> tuple[int, Coverage]:
    bar = (TextColumn("ingesting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    standing = {one.name: one for one in await content.collections(by, limit=10_000)}.get(collection)
    if standing is None:
        await content.declare(by, collection, definition)
    changed, batch = 0, []
    with Progress(*bar, console=out, transient=True) as progress:
        line = progress.add_task("ingesting", total=len(files))
        async for document in _documents(content, folder, files):
            batch.append(document)
            if len(batch) == _AT_ONCE:
                changed += sum(put.changed for put in await content.put_many(by, collection, batch))
                progress.advance(line, len(batch))
                batch = []
        changed += sum(put.changed for put in await content.put_many(by, collection, batch))
        progress.advance(line, len(batch))
    return changed, await content.coverage(by, collection)
