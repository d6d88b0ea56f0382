"""The start is refused where one tenant could read another's rows, and the message holds the statement that mends it.

Roles belong to a whole server, and other tests use theirs meanwhile: these have a server of their own.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backstay.kernel.db import APP, OWNER, SYSTEM, Database
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.migrate import Migrations
from backstay.kernel.roles import bootstrap, verify
from backstay.kernel.settings import Settings

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("roles")) as server:
        yield server.url


@pytest.fixture
def url(own_server: str) -> Iterator[str]:
    """An empty database on it."""
    name = f"test_{uuid4().hex[:8]}"
    with psycopg.connect(own_server, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield make_conninfo(own_server, dbname=name)
        admin.execute(sql.SQL("drop database {} (force)").format(sql.Identifier(name)))


@pytest.fixture
async def prepared(url: str) -> str:
    await bootstrap(url)
    await asyncio.to_thread(Migrations(url).up)
    return url


@pytest.fixture
def admin(prepared: str) -> Iterator[Connection]:
    with psycopg.connect(prepared, autocommit=True) as connection:
        yield connection


def mend_in(message: str) -> str:
    """The statement in backticks that the message tells the operator to run."""
    return message.split("`")[1]


async def test_a_freshly_prepared_database_is_accepted(prepared: str) -> None:
    await verify(prepared)


@pytest.mark.parametrize("role", [APP, SYSTEM])
@pytest.mark.parametrize(
    ("harm", "undo", "word"),
    [
        ("alter role {} superuser", "alter role {} nosuperuser", "superuser"),
        ("alter role {} bypassrls", "alter role {} nobypassrls", "row-level security"),
        ("alter table backstay.cache owner to {}", "alter table backstay.cache owner to backstay_owner", "owns"),
    ],
)
async def test_a_role_that_escapes_the_fence_stops_the_start_and_the_told_statement_mends_it(
    prepared: str, admin: Connection, role: str, harm: str, undo: str, word: str
) -> None:
    admin.execute(sql.SQL(harm).format(sql.Identifier(role)))  # type: ignore[arg-type]
    try:
        with pytest.raises(ConfigurationError) as refused:
            await verify(prepared)
        message = str(refused.value)
        assert role in message
        assert word in message
        admin.execute(mend_in(message))  # type: ignore[arg-type]
        await verify(prepared)
    finally:
        admin.execute(sql.SQL(undo).format(sql.Identifier(role)))  # type: ignore[arg-type]


@pytest.mark.parametrize("powerful", [SYSTEM, OWNER])
async def test_an_application_role_that_inherits_a_stronger_one_stops_the_start(
    prepared: str, admin: Connection, powerful: str
) -> None:
    admin.execute(sql.SQL("grant {} to {}").format(sql.Identifier(powerful), sql.Identifier(APP)))
    try:
        with pytest.raises(ConfigurationError) as refused:
            await verify(prepared)
        assert powerful in str(refused.value)
        admin.execute(mend_in(str(refused.value)))  # type: ignore[arg-type]
        await verify(prepared)
    finally:
        admin.execute(sql.SQL("revoke {} from {}").format(sql.Identifier(powerful), sql.Identifier(APP)))


async def test_a_database_without_the_roles_is_refused(prepared: str, admin: Connection) -> None:
    admin.execute(sql.SQL("alter role {} rename to set_aside").format(sql.Identifier(APP)))
    try:
        with pytest.raises(ConfigurationError, match="migrate up"):
            await verify(prepared)
    finally:
        admin.execute(sql.SQL("alter role set_aside rename to {}").format(sql.Identifier(APP)))


async def test_the_preparation_may_run_twice_and_from_several_processes_at_once(url: str) -> None:
    await asyncio.gather(*(bootstrap(url) for _ in range(4)))
    await bootstrap(url)


class TestAnOrdinaryLogin:
    """Production's login is no superuser: CREATEROLE and its own database are enough to begin with."""

    @pytest.fixture
    def login(self, own_server: str) -> Iterator[str]:
        name = f"login_{uuid4().hex[:8]}"
        role = sql.Identifier(name)
        with psycopg.connect(own_server, autocommit=True) as admin:
            admin.execute(sql.SQL("create role {} login createrole").format(role))
            admin.execute(sql.SQL("create database {} owner {}").format(role, role))
            with psycopg.connect(make_conninfo(own_server, dbname=name), autocommit=True) as inside:
                inside.execute("create extension vector with schema public")
            for granted in (OWNER, APP, SYSTEM):
                if admin.execute("select from pg_roles where rolname = %s", [granted]).fetchone() is not None:
                    admin.execute(sql.SQL("grant {} to {} with admin option").format(sql.Identifier(granted), role))
            yield make_conninfo(own_server, dbname=name, options=f"-c role={name}")
            admin.execute(sql.SQL("drop database {} (force)").format(role))
            admin.execute(sql.SQL("drop owned by {}").format(role))
            admin.execute(sql.SQL("drop role {}").format(role))

    async def test_prepares_migrates_and_is_fenced(self, login: str, tmp_path: Path) -> None:
        await bootstrap(login)
        await asyncio.to_thread(Migrations(login).up)
        await verify(login)
        settings = Settings.load(database_url=login, data_dir=tmp_path, master_key="k" * 32)
        async with Database(login, settings) as db, db.tenant_tx(uuid4()) as tx:
            assert await (await tx.execute("select current_user")).fetchone() == (APP,)


async def test_a_login_of_the_applications_own_is_checked_as_well(
    prepared: str, admin: Connection, tmp_path: Path
) -> None:
    """With one URL a role (pgbouncer), it is the login that has to be fenced, not the role it is a member of."""
    settings = Settings.load(
        database_url=prepared,
        app_database_url=prepared,  # the superuser
        system_database_url=prepared,
        data_dir=tmp_path,
        master_key="k" * 32,
    )
    with pytest.raises(ConfigurationError, match="BACKSTAY_APP_DATABASE_URL"):
        async with Database(prepared, settings):
            pytest.fail("it opened")
