"""A whole database into a file and back: between the embedded server and a managed one, either way.

The programs come with the embedded server and are of its version: they read any older server, and write to one that
is not older than the one dumped. A password is handed over in the environment, where `ps` does not show it.
"""

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .errors import ConfigurationError
from .postgres_account import bundled_programs
from .postgres_errors import unusable
from .roles import SCHEMA, bootstrap

Progress = Callable[[str, int], None]  # the table that is moved now, and how many there are

_DUMPING = re.compile(r'dumping contents of table "(.+)"')
_RESTORING = re.compile(r'processing data for table "(.+)"')
_VECTOR = re.compile(r"\d+; \d+ \d+ (EXTENSION|COMMENT) - (EXTENSION )?vector\b")
_CHATTER = re.compile(r"^pg_(dump|restore): (?!error|warning|detail|hint|from TOC)")


def dump(url: str, file: Path, progress: Progress) -> int:
    """Writes the database at `url` to `file`, compressed, readable by its owner only. Returns its size in bytes.

    The file appears once it is whole. The content of unlogged tables (caches) is left out.

    Raises:
        ConfigurationError: the database cannot be reached or not be read whole, or the file not be written.
    """
    with _connected(url) as connection:
        if not _value(connection, "select rolsuper or rolbypassrls from pg_roles where rolname = current_user"):
            raise ConfigurationError(
                "this login sees only the rows its policies let through, and the dump would miss the others. "
                "Use one that is a superuser or has BYPASSRLS: alter role ... bypassrls"
            )
        tables = _value(
            connection,
            "select count(*) from pg_class where relkind = 'r' and relpersistence = 'p' "
            "and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)",
        )
    partial = file.with_name(f".{file.name}.part")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _dump(url, partial, lambda table: progress(table, tables))
        partial.rename(file)
        return file.stat().st_size
    except OSError as error:
        raise unusable(file, error) from None
    finally:
        partial.unlink(missing_ok=True)


def restore(url: str, file: Path, progress: Progress, *, replace: bool = False) -> int:
    """Puts a dump into the database at `url`, all or nothing. Returns how many tables had rows to restore.

    Roles are no part of a dump: those that own something and are missing are made, without login.

    Raises:
        ConfigurationError: the file is no dump, or the database holds tables of ours and `replace` is False, or
            Postgres refused.
    """
    entries = _entries(file)
    asyncio.run(bootstrap(url))
    with _connected(url) as connection:
        standing = _value(connection, "select count(*) from pg_tables where schemaname = %s", SCHEMA)
        if standing and not replace:
            raise ConfigurationError(
                f"the database has {standing} tables of Backstay already. Restore into an empty one, or add "
                "--replace to drop everything in it first."
            )
        _make_owners(connection, {entry.rsplit(" ", 1)[-1] for entry in entries} - {"", "-"})
    # The extension stands already, and a managed server gives its comment to nobody.
    wanted = [entry for entry in entries if not _VECTOR.match(entry)]
    tables = sum(" TABLE DATA " in entry for entry in wanted)
    with tempfile.TemporaryDirectory() as place:
        chosen, first = Path(place, "entries"), Path(place, "first.sql")
        chosen.write_text("\n".join(wanted), encoding="utf-8")
        empty = files(__package__).joinpath("empty.sql").read_text(encoding="utf-8")
        # Without --replace only our schema goes, which bootstrap made: and only when it is empty.
        making_room = empty if replace else f"drop schema if exists {SCHEMA};"
        first.write_text(f"begin;\n{making_room}\n", encoding="utf-8")
        _restore(url, file, chosen, first, lambda table: progress(table, tables))
    return tables


def arguments_for(url: str) -> tuple[str, dict[str, str]]:
    """The connection string without its password, and an environment that has it, for a Postgres program."""
    parts = conninfo_to_dict(url)
    environment = dict(os.environ)
    password = parts.pop("password", None)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    return make_conninfo("", **parts), environment


def _entries(file: Path) -> list[str]:
    """The table of contents: lines such as `3412; 1259 16392 TABLE backstay job backstay_owner`."""
    if not file.is_file():
        raise ConfigurationError(f"{file} does not exist. Name a file that `backstay db dump` wrote.")
    listed = subprocess.run(
        [bundled_programs() / "pg_restore", "--list", file], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        raise ConfigurationError(
            f"{file} is no dump that `backstay db dump` wrote, or is cut off: {listed.stderr.strip()}"
        )
    return [line for line in listed.stdout.splitlines() if line and not line.startswith(";")]


def _make_owners(connection: psycopg.Connection[tuple[object, ...]], owners: set[str]) -> None:
    rows = connection.execute(
        "select owner from unnest(%s::text[]) owner where to_regrole(quote_ident(owner)) is null", [sorted(owners)]
    ).fetchall()
    for (owner,) in rows:
        connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(str(owner))))
        connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(str(owner))))


def _dump(url: str, to: Path, on_table: Callable[[str], None]) -> None:
    where, environment = arguments_for(url)
    options = ("--format=custom", "--verbose", "--no-unlogged-table-data", "--no-password")
    with _program("pg_dump", *options, f"--dbname={where}", f"--file={to}", env=environment) as program:
        said = _follow(program, _DUMPING, on_table)
    if program.returncode != 0:
        raise ConfigurationError("pg_dump failed. It said:\n" + "\n".join(said))


def _restore(url: str, file: Path, chosen: Path, first: Path, on_table: Callable[[str], None]) -> None:
    """pg_restore writes SQL, psql runs it after the file `first`, all in one transaction.

    pg_restore itself cannot empty a database that has partitioned tables. We hold the pipe between the two open,
    and put the commit into it once pg_restore has written everything.
    """
    where, environment = arguments_for(url)
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as words, os.fdopen(writer, "wb") as pipe:
        options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--no-password", "--output=/dev/null")
        running = _program(
            *("psql", *options, f"--dbname={where}", f"--file={first}", "--file=-"),
            stdin=reader,
            stderr=words,
            env=environment,
        )
        os.close(reader)  # psql's alone: when it gives up, pg_restore ends too
        with running:
            with _program(
                "pg_restore", "--verbose", f"--use-list={chosen}", "--file=-", str(file), stdout=pipe
            ) as reading:
                complaints = _follow(reading, _RESTORING, on_table)
            if reading.returncode == 0 and running.poll() is None:
                pipe.write(b"\ncommit;\n")
            pipe.close()
        words.seek(0)
        refused = [line for line in words.read().decode(errors="replace").splitlines() if "NOTICE:" not in line]
    if running.returncode != 0 or reading.returncode != 0:
        said = refused[-15:] or complaints
        raise ConfigurationError("the restore failed, and nothing was changed:\n" + "\n".join(said))


def _program(name: str, *arguments: str, env: dict[str, str] | None = None, **streams: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [bundled_programs() / name, *arguments],
        env=(env or dict(os.environ)) | {"LC_ALL": "C"},  # its words are read
        text=True,
        errors="replace",
        **({"stdin": subprocess.DEVNULL, "stderr": PIPE} | streams),
    )


def _follow(program: "subprocess.Popen[str]", moving: re.Pattern[str], on_table: Callable[[str], None]) -> list[str]:
    """Tells of each table as the program comes to it. Returns its last words that are not mere chatter."""
    said: list[str] = []
    assert program.stderr is not None  # noqa: S101 (a pipe was asked for)
    for line in program.stderr:
        if found := moving.search(line):
            on_table(found[1])
        if not _CHATTER.match(line):
            said = [*said[-14:], line.rstrip()]
    return said


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise ConfigurationError(f"the database cannot be reached: {str(error).strip()}") from None
    try:
        with connection:
            yield connection
    except psycopg.Error as error:
        raise ConfigurationError(f"the database refused: {str(error).strip()}") from None


def _value(connection: psycopg.Connection[tuple[object, ...]], question: str, *parameters: str) -> int:
    row = connection.execute(question, parameters).fetchone()
    return int(row[0]) if row and isinstance(row[0], int) else 0
