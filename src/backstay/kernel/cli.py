"""What the commands of every room share; and `backstay db`: a shell on the database, its address, and a dump that moves
it elsewhere and back.
"""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from . import transfer
from .clock import Clock, SystemClock
from .crypto import Vault
from .db import Database
from .embedded import EmbeddedPostgres
from .errors import Invalid
from .postgres_account import bundled_programs
from .principal import Principal
from .settings import Settings

S = TypeVar("S")
T = TypeVar("T")
commands = typer.Typer(help="The database: shell, dump, restore.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Base:
    """What a room's service is made on."""

    settings: Settings
    clock: Clock
    vault: Vault
    db: Database


class Command(Generic[S]):
    """Decorates what gives a room's service and who acts with it; the result runs one command's work with both:
    `with_jobs(lambda jobs, by: jobs.get(by, id))`.
    """

    def __init__(self, service: Callable[[Base], AsyncIterator[tuple[S, Principal]]]) -> None:
        self._service = asynccontextmanager(service)

    def __call__(self, work: Callable[[S, Principal], Awaitable[T]]) -> T:
        settings = Settings.load()
        vault = Vault.of(settings)
        with database(settings) as url:
            return asyncio.run(self._run(Base(settings, SystemClock(), vault, Database(url, settings)), work))

    async def _run(self, base: Base, work: Callable[[S, Principal], Awaitable[T]]) -> T:
        async with base.db, self._service(base) as (service, by):
            return await work(service, by)


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of the configured database, with the embedded server running meanwhile."""
    if settings.database_url:
        yield settings.database_url
    else:
        with EmbeddedPostgres(settings.data_dir) as server:
            yield server.url


def by_id(*columns: str) -> Table:
    """A table whose rows begin with an id. Ids are shown whole, for the next command, however narrow the terminal."""
    return Table(Column("id", min_width=36), *columns, box=None, pad_edge=False)


def print_json(value: object) -> None:
    typer.echo(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2))


def read_json(text: str, option: str) -> Any:
    """What was given to `option` as JSON.

    Raises:
        Invalid: it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"{option} is not JSON: {error}") from None


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def local(at: datetime) -> str:
    """A moment as a clock on the wall shows it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(context: typer.Context) -> None:
    """Open psql on the database. Further arguments go to psql, such as `-c` and a statement."""
    with database(Settings.load()) as url:
        where, environment = transfer.arguments_for(url)
        ours = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql: it cancels the query
        try:
            ended = subprocess.run(
                [bundled_programs() / "psql", f"--dbname={where}", *context.args],
                check=False,
                env=environment,
                preexec_fn=_listen_to_ctrl_c,
            )
        finally:
            signal.signal(signal.SIGINT, ours)
    raise typer.Exit(ended.returncode)


@commands.command()
def url() -> None:
    """Print the database's address, as libpq and its tools take it. It may hold a password."""
    settings = Settings.load()
    typer.echo(settings.database_url or EmbeddedPostgres(settings.data_dir).url)


@commands.command()
def dump(
    file: Annotated[Path, typer.Argument(help="File to write, in pg_dump's custom format.", dir_okay=False)],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file when it exists.")] = False,
) -> None:
    """Write the whole database to FILE. It holds every tenant's data: keep it safe."""
    if file.exists() and not force:
        raise typer.BadParameter(f"{file} exists; choose another name or add --force")
    with database(Settings.load()) as source, _progress("dumping") as moved:
        size = transfer.dump(source, file, moved)
    typer.echo(f"{file}: {size / 2**20:.1f} MB")


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="File that `backstay db dump` wrote.", dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Drop everything that stands there first.")] = False,
) -> None:
    """Put FILE into the configured database, all or nothing. Stop Backstay's other processes first."""
    with database(Settings.load()) as target, _progress("restoring") as moved:
        tables = transfer.restore(target, file, moved, replace=replace)
    typer.echo(f"{file}: {tables} tables restored")


@contextmanager
def _progress(what: str) -> Iterator[transfer.Progress]:
    """A bar on stderr, when that is a terminal."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        done = -1

        def moved(table: str, total: int) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=table, total=total, completed=done)

        yield moved


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
