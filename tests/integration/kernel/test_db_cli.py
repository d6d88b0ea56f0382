"""`backstay db`: what is dumped comes back whole, into another server, with owners, policies and vectors."""

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from backstay.kernel import transfer
from backstay.kernel.cli import commands
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.migrate import Migrations
from backstay.kernel.roles import bootstrap, verify
from embedded_server import ask, template

__all__ = ["template"]  # fixture

TENANT = "00000000-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def two_servers(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EmbeddedPostgres]]:
    home = tmp_path_factory.mktemp("two")
    servers = []
    for name in ("from", "to"):
        subprocess.run(["cp", "-a", template, home / name], check=True)
        servers.append(EmbeddedPostgres(home / name))
    with servers[0], servers[1]:
        yield servers


@pytest.fixture(scope="module")
def source(two_servers: list[EmbeddedPostgres]) -> str:
    """A database with all our tables, some rows, and tables of the user's own."""
    url = two_servers[0].url
    asyncio.run(bootstrap(url))
    Migrations(url).up()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table ticket (id int primary key, embedding vector(2), cost numeric)")
        connection.execute("insert into ticket select n, array[n, 1]::vector, n / 3.0 from generate_series(1, 5000) n")
        connection.execute("create index on ticket using hnsw (embedding vector_l2_ops)")
        connection.execute("create role clerk nologin")
        connection.execute("alter table ticket owner to clerk")
        connection.execute("insert into backstay.cache values (%s, 'a', 'b', now() + '1 hour')", [TENANT])
        connection.execute(
            "insert into backstay.idempotency values (%s, 'kept', 'x', 200, 'y', '2030-01-01')", [TENANT]
        )
    return url


@pytest.fixture
def target(two_servers: list[EmbeddedPostgres]) -> Iterator[str]:
    """An empty database on another server."""
    server = two_servers[1]
    name = f"target_{os.urandom(4).hex()}"
    admin = server.url.replace("/backstay?", "/postgres?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"create database {name}")  # type: ignore[arg-type]
    yield server.url.replace("/backstay?", f"/{name}?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Run":
    return Run(monkeypatch, tmp_path)


class Run:
    """The command line, pointed at a database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(tmp_path)

    def __call__(self, url: str, *arguments: str) -> str:
        self._monkeypatch.setenv("BACKSTAY_DATABASE_URL", url)
        self._monkeypatch.setenv("BACKSTAY_MASTER_KEY", "0123456789abcdef0123456789abcdef")
        result = CliRunner().invoke(commands, list(arguments))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output


def _content(url: str) -> object:
    return ask(
        url,
        """select json_build_object(
            'tables', (select json_agg(array[schemaname, tablename, tableowner] order by 1, 2)
                       from (select * from pg_tables where schemaname in ('backstay', 'public')
                             order by schemaname, tablename) t),
            'policies', (select json_agg(p order by tablename, policyname) from
                         (select schemaname, tablename, policyname, roles, qual from pg_policies) p),
            'forced', (select count(*) from pg_class where relforcerowsecurity and relrowsecurity),
            'rights', (select json_agg(array[relname, relacl::text] order by relname) from pg_class
                       where relnamespace = 'backstay'::regnamespace and relkind = 'r'),
            'tickets', (select json_agg(ticket order by id) from ticket),
            'keys', (select json_agg(key) from backstay.idempotency),
            'migrations', (select json_agg(m order by m::text) from backstay.migration m))""",
    )


def test_what_is_dumped_comes_back_whole_on_another_server(source: str, target: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "all.dump"
    assert "MB" in run(source, "dump", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "dump" in path.name] == ["all.dump"]
    assert "tables restored" in run(target, "restore", str(file))
    assert _content(target) == _content(source)
    assert ask(target, "select count(*) from backstay.cache") == 0  # a cache may be empty
    asyncio.run(verify(target))


def test_a_database_in_use_is_only_replaced_when_told_so(source: str, target: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "all.dump"
    run(source, "dump", str(file))
    run(target, "restore", str(file))
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("delete from ticket")
    with pytest.raises(ConfigurationError, match=r"tables of Backstay already.*--replace"):
        run(target, "restore", str(file))
    assert ask(target, "select count(*) from ticket") == 0
    run(target, "restore", str(file), "--replace")
    assert _content(target) == _content(source)


def test_a_restore_that_fails_changes_nothing(source: str, target: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "all.dump"
    run(source, "dump", str(file))
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("create view ticket as select 1 as in_the_way")
    with pytest.raises(ConfigurationError, match=r"(?s)nothing was changed.*ticket"):
        run(target, "restore", str(file))
    assert ask(target, "select count(*) from pg_tables where schemaname = 'backstay'") == 0
    assert ask(target, "select in_the_way from ticket") == 1


def test_progress_tells_each_table_once(source: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    transfer.dump(source, tmp_path / "all.dump", lambda table, total: seen.append((table, total)))
    tables = [table for table, _ in seen]
    assert {"public.ticket", "backstay.idempotency"} <= set(tables)
    assert len(tables) == len(set(tables)) == seen[0][1]


def test_a_file_that_is_no_dump_is_refused(target: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigurationError, match="is no dump"):
        run(target, "restore", str(tmp_path / "text"))
    with pytest.raises(ConfigurationError, match="does not exist"):
        run(target, "restore", str(tmp_path / "nothing"))


def test_a_file_that_exists_is_not_overwritten(source: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "precious").write_text("precious")
    with pytest.raises(AssertionError, match="add --force"):
        run(source, "dump", str(tmp_path / "precious"))
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_login_that_sees_only_some_rows_may_not_dump(source: str, tmp_path: Path, run: Run) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("create role weak login")
    with pytest.raises(ConfigurationError, match="BYPASSRLS"):
        run(source.replace("backstay@", "weak@"), "dump", str(tmp_path / "all.dump"))
    assert not list(tmp_path.glob("*dump*"))


def test_a_database_that_is_away_is_said_in_one_line(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        run(f"postgresql://x@/x?host={tmp_path}", "dump", str(tmp_path / "all.dump"))


def test_a_password_is_not_shown_to_other_processes() -> None:
    where, environment = transfer.arguments_for("postgresql://u:secret@127.0.0.1/d?sslmode=require")
    assert "secret" not in where
    assert "sslmode=require" in where
    assert environment["PGPASSWORD"] == "secret"


def test_url_and_shell_lead_to_the_database(source: str, run: Run) -> None:
    assert run(source, "url").strip() == source
    run(source, "shell", "-c", "create table by_shell as select 1 as n")
    assert ask(source, "select n from by_shell") == 1
    run(source, "shell", "-qc", "drop table by_shell")


def test_without_a_url_the_embedded_database_is_meant(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["cp", "-a", template, tmp_path / "data"], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKSTAY_DATA_DIR", str(tmp_path / "data"))
    assert CliRunner().invoke(commands, ["dump", "all.dump"]).exit_code == 0
    assert (tmp_path / "all.dump").stat().st_size > 0
    assert not (tmp_path / "data" / "pg" / "data" / "postmaster.pid").exists()  # stopped again


def test_a_dump_that_is_cut_off_changes_nothing(source: str, target: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "all.dump"
    run(source, "dump", str(file))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match=r"nothing was changed|is cut off"):
        run(target, "restore", str(file))
    assert ask(target, "select count(*) from pg_tables where schemaname in ('backstay', 'public')") == 0
