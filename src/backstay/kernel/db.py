"""The database: two pools (one a role), tenant-fenced transactions, and the caller's own connection as a transaction.

Every transaction runs as `backstay_app` with its tenant set, where row-level security shows that tenant's rows and no
others, or as `backstay_system` (our own loops), which crosses tenants. Never hold one across an outside call.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson
from psycopg import AsyncConnection, AsyncCursor, Error, OperationalError, adapters
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import JsonbDumper, set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from . import json, telemetry
from .cancellation import cancellation_kept
from .errors import ConfigurationError, Conflict, Invalid, TenantMismatch, Unavailable
from .notify import CHANNEL, Notifier, note_line, payloads
from .pipeline import gathered
from .settings import Settings
from .sql import Query

APP, SYSTEM, OWNER, CDC = "backstay_app", "backstay_system", "backstay_owner", "backstay_cdc"
_START_LIMIT = 10.0  # seconds
_TRANSACTION_TIMEOUT = 170000  # the first version of Postgres that has it
_CLAIMS = "backstay_system, claims"
_INDEXED = ("enable_seqscan = off", "plan_cache_mode = force_generic_plan")
_log = telemetry.log("db")
_pool_waits = telemetry.histogram("backstay_pool_wait_seconds", "Wait for a pooled connection.", ["role"])

set_json_dumps(json.dumps)
set_json_loads(orjson.loads)


class Tx:
    """An open transaction, fenced to `tenant` (None: `backstay_system`, which crosses tenants).

    `owned` says whether Backstay commits it; the caller does when it was made by `adopt`.
    """

    def __init__(
        self, connection: AsyncConnection[Any], tenant: UUID | None, notifier: Notifier, *, owned: bool = True
    ) -> None:
        self.connection, self.tenant = connection, tenant
        self._notifier, self.owned = notifier, owned
        self._after_commit: list[Callable[[], None]] = []
        self._notes: dict[tuple[str, str], None] = {}

    async def execute(
        self, query: str | SQL | Composed, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> AsyncCursor[Any]:
        """Runs the user's own SQL in this transaction. Parameters are written `%s` or `%(name)s`."""
        return await self.connection.execute(query, params)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once the commit has succeeded. Only for transactions that Backstay opened."""
        if not self.owned:
            raise RuntimeError("the caller commits this transaction; Backstay cannot know when")
        self._after_commit.append(callback)

    def notify(self, topic: str, key: str = "") -> None:
        """Wakes the subscribers of a topic after the commit; no one when it is rolled back."""
        self._notes[topic, key] = None

    async def _send_with_commit(self) -> None:
        # The caller commits: let Postgres hold the notes until then.
        if self._notes:
            lines = list(payloads("caller", (note_line(*note) for note in self._notes)))
            await self.connection.execute("select pg_notify(%s, line) from unnest(%s::text[]) line", [CHANNEL, lines])

    def _committed(self) -> None:
        for topic, key in self._notes:
            self._notifier.notify(topic, key)
        for callback in self._after_commit:
            callback()


class Database:
    """Pools, transactions and wake-ups of one process.

    `patience`: how long the server lets a worker's transaction wait for its process. One that freezes in the middle
    would keep its locks from those who take over its work; after this the server ends the transaction.
    """

    def __init__(self, url: str | None, settings: Settings) -> None:
        Query.slow_seconds = settings.slow_query_seconds
        self._url, self._settings = url, settings
        # A pooler's sessions carry no settings: then they are set in each transaction.
        self._begin_ours: tuple[str, ...] = ("begin",)
        self._begin_claims: tuple[str, ...] = self._begin_ours
        self.patience = max(timedelta(seconds=2 * settings.lease_seconds), timedelta(seconds=5))
        self._pools: dict[str, AsyncConnectionPool[AsyncConnection[Any]]] = {}
        self.notifier = Notifier(self._connect_listener, self._send_notes)

    @property
    def url(self) -> str:
        if self._url is None:
            raise ConfigurationError("the database is not open and has no URL yet")
        return self._url

    def url_for(self, role: str) -> str:
        """A URL whose sessions act as `role`: hand `url_for("backstay_app")` to your own engine or pool.

        For SQLAlchemy, write `postgresql+psycopg` in front of the colon.
        """
        return "postgresql:///?" + urlencode(
            conninfo_to_dict(self.url, options=self._options(role)), quote_via=quote, safe=""
        )

    async def open(self, url: str | None = None) -> None:
        """Opens the pools, on `url` when it was not known before (an embedded server has just started).

        Raises:
            ConfigurationError: the server does not answer, refuses the login, or would not fence the tenants.
        """
        self._url = url or self._url
        self._pools = {
            APP: self._pool(APP, self._settings.app_database_url),
            SYSTEM: self._pool(SYSTEM, self._settings.system_database_url),
            _CLAIMS: self._pool(_CLAIMS, self._settings.system_database_url),
        }
        try:
            for pool in self._pools.values():
                await pool.open(wait=True, timeout=_START_LIMIT)
        except PoolTimeout:
            await self.close()
            raise ConfigurationError(
                f"no database answers at {telemetry.scrub(self.url)}. Does it run, and is BACKSTAY_DATABASE_URL right?"
            ) from None
        async with self._pools[APP].connection() as connection:
            role = await _escaping_role(connection)
        if self._settings.system_database_url:
            bounds = self._bounds(connection.info.server_version)
            self._begin_ours = ("begin", *_local(bounds))
            self._begin_claims = (*self._begin_ours, *_local(_INDEXED))
        if role:
            await self.close()
            raise ConfigurationError(
                f"tenant work would run as {role}, which escapes row-level security. BACKSTAY_APP_DATABASE_URL must "
                f"log in as {APP}, or as a role that is a member of {APP} and of no other of Backstay's"
            )

    async def close(self) -> None:
        await self.notifier.close()
        for pool in self._pools.values():
            await pool.close()

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def tenant_tx(self, tenant: UUID, *, pipelined: bool = False) -> AsyncIterator[Tx]:
        """A transaction as `backstay_app` that sees and writes the rows of `tenant` only. `pipelined`: see
        `system_tx`."""
        opening = ("begin", f"set local backstay.tenant_id = '{UUID(str(tenant))}'")
        async with self._begin(APP, opening, tenant, pipelined=pipelined) as tx:
            yield tx

    @asynccontextmanager
    async def system_tx(self, *, indexed: bool = False, pipelined: bool = False) -> AsyncIterator[Tx]:
        """A transaction as `backstay_system`, which crosses tenants. For our own loops only, with `patience`.

        `indexed` keeps its statements on indexes: a plan that was made while a queue was empty would scan the table,
        and be kept while 100,000 jobs arrive. Each is planned once: to plan a claim takes longer than to make it.
        `pipelined` sends statements together, see `gathered`: the first with the beginning and the last with the
        commit; only fetching rows waits.
        """
        opening = self._begin_ours + (_local(_INDEXED) if indexed else ())
        async with self._begin(SYSTEM, opening, None, pipelined=pipelined) as tx:
            yield tx

    @asynccontextmanager
    async def claims_tx(self, *, pipelined: bool) -> AsyncIterator[Tx]:
        """As `system_tx(indexed=True)`, on connections that make nothing but claims: to plan one takes as long as ten
        of them, and every connection plans its own. `pipelined` only when nothing is fetched in between: the server
        does not count a process that freezes there as idle, and would keep its locks."""
        async with self._begin(_CLAIMS, self._begin_claims, None, pipelined=pipelined) as tx:
            yield tx

    @asynccontextmanager
    async def system_statement(self) -> AsyncIterator[Tx]:
        """As `backstay_system`, for one statement that is its own transaction: one round trip, committed when it
        returns. For our own hot loops only."""
        with cancellation_kept():
            connection = await self._opened(SYSTEM, "")
            try:
                yield Tx(connection, None, self.notifier, owned=False)
            except BaseException:
                await asyncio.shield(self._abandon(SYSTEM, connection))
                raise
            await asyncio.shield(self._pools[SYSTEM].putconn(connection))

    @asynccontextmanager
    async def join(self, tx: Tx | None, tenant: UUID, *, pipelined: bool = False) -> AsyncIterator[Tx]:
        """The transaction given, or a new one of `tenant` that commits when the block ends well, `pipelined` or not.

        Raises:
            TenantMismatch: `tx` is fenced to another tenant.
        """
        if tx is None:
            async with self.tenant_tx(tenant, pipelined=pipelined) as own:
                yield own
            return
        if tx.tenant not in (None, tenant):
            raise TenantMismatch("the transaction given is fenced to another tenant than the call is for")
        yield tx

    @asynccontextmanager
    async def join_system(self, tx: Tx | None) -> AsyncIterator[Tx]:
        if tx is None:
            async with self.system_tx() as own:
                yield own
            return
        yield tx

    @asynccontextmanager
    async def adopt(self, connection: object, tenant: UUID) -> AsyncIterator[Tx]:
        """The caller's own open transaction as a `tx`: their rows and ours commit together, when they commit.

        Takes a psycopg `AsyncConnection`, or a SQLAlchemy `AsyncSession` or `AsyncConnection` on the psycopg dialect.

        Raises:
            Invalid: no transaction is open, another kind of connection, or its role escapes row-level security.
            Conflict: a statement failed in the block and nobody told; the caller's commit would commit nothing.
        """
        raw = await _psycopg_connection(connection)
        if raw.autocommit and raw.info.transaction_status == TransactionStatus.IDLE:
            raise Invalid("the connection is in autocommit mode: open a transaction on it first")
        if role := await _escaping_role(raw):
            raise Invalid(
                f"the connection's role {role} escapes row-level security; "
                'connect with app.db.url_for("backstay_app"), or run `set local role backstay_app` first'
            )
        await raw.execute("select set_config('backstay.tenant_id', %s, true)", [str(tenant)], prepare=False)
        raw.adapters.register_dumper(dict, _Jsonb)
        tx = Tx(raw, tenant, self.notifier, owned=False)
        yield tx
        if raw.info.transaction_status == TransactionStatus.INERROR:
            raise _failed()
        await tx._send_with_commit()

    @asynccontextmanager
    async def login_tx(self) -> AsyncIterator[Tx]:
        """A transaction on a connection of its own, as the login itself: for what is done to the user's own tables,
        which our roles need not own. `become` takes one of our roles within it."""
        connection = await AsyncConnection.connect(self.url, connect_timeout=10, application_name="backstay/login")
        async with connection:
            connection.adapters.register_dumper(dict, _Jsonb)
            tx = Tx(connection, None, self.notifier, owned=False)
            yield tx
            await tx._send_with_commit()

    @asynccontextmanager
    async def become(self, tx: Tx, role: str) -> AsyncIterator[Tx]:
        """Within `login_tx`: the block's statements are made by `role`."""
        await tx.connection.execute(SQL("set local role {}").format(Identifier(role)), prepare=False)
        yield tx
        await tx.connection.execute("set local role none", prepare=False)

    @asynccontextmanager
    async def _begin(
        self, role: str, opening: Sequence[str], tenant: UUID | None, *, pipelined: bool = False
    ) -> AsyncIterator[Tx]:
        with cancellation_kept():
            connection = await self._opened(role, "" if pipelined else "; ".join(opening))
            try:
                async with gathered(connection) if pipelined else nullcontext():
                    for statement in opening if pipelined else ():
                        await connection.execute(statement, prepare=None if statement == "begin" else False)
                    tx = Tx(connection, tenant, self.notifier)
                    yield tx
                    if connection.info.transaction_status == TransactionStatus.INERROR:
                        # COMMIT would answer ROLLBACK without an error: someone swallowed a failed statement.
                        raise _failed()
                    await connection.execute("commit")
                tx._committed()
            except BaseException:
                await asyncio.shield(self._abandon(role, connection))
                raise
            await asyncio.shield(self._pools[role].putconn(connection))

    async def _opened(self, role: str, opening: str) -> AsyncConnection[Any]:
        """A pooled connection, with a transaction open on it if `opening` is given. Idle ones whose server went away
        are passed over."""
        if role not in self._pools:
            raise ConfigurationError("the database is not open: use `async with app`, or `await app.start()` first")
        pool = self._pools[role]
        for others in reversed(range(pool.max_size + 1)):
            try:
                with _pool_waits.labels(role).time():
                    connection = await pool.getconn()
            except PoolTimeout:
                raise Unavailable("no database connection became free; try again") from None
            try:
                if opening:
                    await connection.execute(opening, prepare=False)
                else:
                    connection.pgconn.consume_input()  # hears of a server that has hung up, without asking it
            except OperationalError:
                await asyncio.shield(pool.putconn(connection))  # the pool makes another in place of a broken one
                if not (connection.broken and others):
                    raise
            except BaseException:
                await asyncio.shield(self._abandon(role, connection))
                raise
            else:
                return connection
        raise Unavailable("every database connection was lost; try again")

    async def _abandon(self, role: str, connection: AsyncConnection[Any]) -> None:
        """Rolls back and then returns the connection: one after the other, also when the caller is cancelled again
        meanwhile and no longer waits for it."""
        try:
            await _rollback(connection)
        finally:
            await self._pools[role].putconn(connection)

    def _options(self, role: str) -> str:
        timeout = int(self._settings.statement_timeout * 1000)
        return f"-c role={role} -c statement_timeout={timeout} -c idle_in_transaction_session_timeout=60000"

    def _bounds(self, server_version: int) -> list[str]:
        """Settings that end a transaction of our loops whose process is frozen. The server does not count one that
        stands still between two statements of a pipeline as idle: only a bound on the whole transaction meets it."""
        idle = int(self.patience.total_seconds() * 1000)
        whole = idle + int(self._settings.statement_timeout * 1000)
        bounds = [f"idle_in_transaction_session_timeout = {idle}"]
        return bounds + ([f"transaction_timeout = {whole}"] if server_version >= _TRANSACTION_TIMEOUT else [])

    def _pool(self, name: str, url: str | None) -> AsyncConnectionPool[AsyncConnection[Any]]:
        # A URL of the role's own goes through a pooler: no session state, so no options and no prepared statements.
        claims, role = name == _CLAIMS, SYSTEM if name == _CLAIMS else name
        fixed = "".join(f" -c {bound.replace(' ', '')}" for bound in _INDEXED) if claims else ""
        options = {} if url else {"options": self._options(role) + fixed}
        prepared = self._settings.prepared_statements and not url
        return AsyncConnectionPool(
            url or self.url,
            min_size=0 if claims else 1,  # only a process with a worker makes claims
            max_size=self._settings.pool_size,
            timeout=10,
            max_idle=3600 if claims else 60,
            open=False,
            name=name,
            configure=partial(self._configure, bounded=role == SYSTEM and not url),
            kwargs={
                "autocommit": True,
                "prepare_threshold": 2 if prepared else None,
                "application_name": f"backstay/{role}",
                **options,
            },
        )

    async def _configure(self, connection: AsyncConnection[Any], *, bounded: bool) -> None:
        connection.adapters.register_dumper(dict, _Jsonb)
        if bounded:
            bounds = self._bounds(connection.info.server_version)
            await connection.execute("; ".join(f"set {bound}" for bound in bounds), prepare=False)

    async def _connect_listener(self) -> AsyncConnection[object]:
        return await AsyncConnection.connect(
            self._settings.listen_database_url or self.url,
            autocommit=True,
            application_name="backstay/listen",
            connect_timeout=10,
        )

    async def _send_notes(self, lines: list[str]) -> None:
        # One round trip, and nothing that the disk would have to keep: a server that crashes has no listeners.
        async with self.system_statement() as tx:
            await tx.execute(
                "select pg_notify(%s, line), set_config('synchronous_commit', 'off', true)"
                " from unnest(%s::text[]) line",
                [CHANNEL, lines],
            )


class _AsItIs(Dumper):
    oid = adapters.types["json"].oid

    def dump(self, obj: json.Encoded) -> bytes:
        return obj.text


adapters.register_dumper(json.Encoded, _AsItIs)


class _Jsonb(JsonbDumper):
    """A Python dict is a jsonb."""


def _local(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"set local {setting}" for setting in settings)


def _failed() -> Conflict:
    return Conflict("a statement in this transaction failed; nothing was committed")


async def _rollback(connection: AsyncConnection[Any]) -> None:
    try:
        if connection.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            await connection.execute("rollback")
    except Error as error:
        # The server has ended the session, or the driver has lost its place in it: with the connection ends the
        # transaction, and the pool makes another.
        _log.warning("connection lost during rollback", error=str(error))
        await connection.close()


async def _escaping_role(connection: AsyncConnection[Any]) -> str | None:
    """The session's role if it sees rows of every tenant, None if it is fenced."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        # Policies for backstay_system hold for all who inherit it, as an ordinary login does after `bootstrap`.
        await cursor.execute(
            "select rolname from pg_roles where rolname = current_user "
            "and (rolsuper or rolbypassrls or pg_has_role(current_user, %s, 'usage'))",
            [SYSTEM],
            prepare=False,
        )
        row = await cursor.fetchone()
    return row[0] if row else None


async def _psycopg_connection(connection: object) -> AsyncConnection[Any]:
    if isinstance(connection, AsyncConnection):
        return connection
    # Whoever hands in one of SQLAlchemy's has imported it; it needs greenlet, which we do not.
    if alchemy := sys.modules.get("sqlalchemy.ext.asyncio"):
        if isinstance(connection, alchemy.AsyncSession):
            connection = await connection.connection()
        if isinstance(connection, alchemy.AsyncConnection):
            if not connection.in_transaction():
                await connection.begin()
            driver = (await connection.get_raw_connection()).driver_connection
            if isinstance(driver, AsyncConnection):
                return driver
    raise Invalid(
        f"cannot join a {type(connection).__name__}: hand in a psycopg AsyncConnection, or a SQLAlchemy AsyncSession "
        "or AsyncConnection made with the postgresql+psycopg dialect"
    )
