"""Real Postgres for every test: one embedded server, one migrated template database, a clone for each test.

`TEST_DATABASE_URL` uses another server (its login must be a superuser, and the tests must run in one process: `-n 0`).
A seed that a test prints is enough to run it again.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backstay.app import App
from backstay.audit import Audit
from backstay.auth import Auth
from backstay.gateway.providers.table import KINDS
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.migrate import Migrations, history
from backstay.kernel.principal import Principal
from backstay.kernel.roles import bootstrap, verify
from backstay.kernel.settings import Settings
from clones import Clones

# Keys and addresses of real providers, which no test may use; backends that tests start inherit what is left.
for _kind in KINDS.values():
    for _variable in (_kind.key, _kind.base):
        os.environ.pop(_variable or "", None)

MASTER_KEY = "test-master-key-0123456789abcdef-0123456789"
_LOCK = 0x7E57


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The superuser's URL of the server that all tests of this run share."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    data_dir = Path(os.environ.get("TEST_DATA_DIR", Path(__file__).parent.parent / ".backstay" / "test"))
    # Processes that share the tests among them have a server each, because some tests change its roles.
    with EmbeddedPostgres(data_dir / os.environ.get("PYTEST_XDIST_WORKER", "alone")) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            # Tests kill processes, not machines: the page cache survives, so fsync would only cost time.
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        yield server.url


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """The name of a database with every migration applied; made once for each state of the migrations."""
    content = "".join(f"{step.name}{step.up}" for step in history())
    name = f"backstay_template_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        _drop_abandoned(connection)
        if connection.execute("select 1 from pg_database where datname = %s and datistemplate", [name]).fetchone():
            return name
        connection.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        url = make_conninfo(server_url, dbname=name)
        asyncio.run(_prepare(url))
        connection.execute(sql.SQL("alter database {} is_template true").format(sql.Identifier(name)))
    return name


async def _prepare(url: str) -> None:
    await bootstrap(url)
    Migrations(url).up()
    await verify(url)


def _drop_abandoned(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Databases of test runs that were killed: nobody is connected to the process that their name carries."""
    for (name,) in connection.execute("select datname from pg_database where datname like 'test\\_%'").fetchall():
        owner = int(str(name).split("_")[1])
        if not Path(f"/proc/{owner}").exists():
            connection.execute(sql.SQL("drop database if exists {} (force)").format(sql.Identifier(str(name))))


@pytest.fixture(scope="session")
def clones(server_url: str, template: str) -> Iterator[Clones]:
    with Clones(server_url, template) as made:
        yield made


@pytest.fixture
def database_url(clones: Clones) -> Iterator[str]:
    """A fresh clone of the template; dropped after the test."""
    name = clones.take()
    yield clones.url(name)
    clones.give_back(name)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings.load(
        database_url=database_url, data_dir=tmp_path, master_key=MASTER_KEY, pool_size=8, lease_seconds=1.0
    )


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault.of(settings)


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def db(database_url: str, settings: Settings) -> AsyncIterator[Database]:
    async with Database(database_url, settings) as database:
        yield database


@pytest.fixture
async def auth(db: Database, clock: SystemClock, vault: Vault) -> Auth:
    return Auth(db, clock, vault, Audit(db, clock, vault))


@dataclass(frozen=True)
class Household:
    """A tenant with its owner's principal and key."""

    tenant: UUID
    owner: Principal
    key: str


async def make_household(auth: Auth, slug: str) -> Household:
    tenant = await auth.create_tenant(slug, slug.title())
    issued = await auth.create_owner(tenant.id, "owner")
    return Household(tenant.id, await auth.authenticate(issued.secret), issued.secret)


@pytest.fixture
async def household(auth: Auth) -> Household:
    return await make_household(auth, "acme")


@pytest.fixture
async def other_household(auth: Auth) -> Household:
    return await make_household(auth, "globex")


@pytest.fixture
def tenant(household: Household) -> UUID:
    return household.tenant


@pytest.fixture
def other_tenant(other_household: Household) -> UUID:
    return other_household.tenant


@pytest.fixture
def owner(household: Household) -> Principal:
    return household.owner


@pytest.fixture
def other_owner(other_household: Household) -> Principal:
    return other_household.owner


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[App]:
    """A started App on the clone; no server and no worker."""
    async with App(settings) as running:
        yield running


@pytest.fixture
async def client(app: App, household: Household) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client on the App, with the owner's key."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {household.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://backstay", headers=headers) as http:
        yield http


@pytest.fixture
async def other_client(app: App, other_household: Household) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {other_household.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://backstay", headers=headers) as http:
        yield http
