"""The four database roles, and the refusal to start when the fence between tenants would not hold.

backstay_owner   owns schema and tables, runs migrations
backstay_app     all tenant work; owns nothing, cannot bypass row-level security
backstay_system  our own loops, which cross tenants by policy, not by privilege
backstay_cdc     replication
"""

from typing import Any

from psycopg import AsyncConnection, Error, errors, sql
from psycopg.rows import tuple_row

from .db import APP, CDC, OWNER, SYSTEM
from .errors import ConfigurationError

SCHEMA = "backstay"
MIN_POSTGRES = 160000
MIN_PGVECTOR = (0, 8, 4)


async def bootstrap(url: str) -> None:
    """Creates what is missing: roles, schema, extension, grants. Safe to repeat and to run from several processes.

    Raises:
        ConfigurationError: the server is too old, or the login may not do what is needed and it is not done yet.
    """
    try:
        for last in (False, False, False, True):
            try:
                await _prepare(url)
                return
            except (errors.UniqueViolation, errors.DuplicateObject, errors.InternalError_):
                # Roles belong to the server: another of its databases is being prepared at this moment.
                if last:
                    raise
    except Error as error:
        raise ConfigurationError(
            f"the database could not be prepared: {str(error).strip()}. The login needs CREATEROLE and must own the "
            "database for the first start; later starts need only membership of the backstay_* roles."
        ) from None


async def _prepare(url: str) -> None:
    async with await AsyncConnection.connect(url, connect_timeout=10, row_factory=tuple_row) as connection:
        await _require_version(connection)
        # One process of a database at a time: CREATE ROLE has no IF NOT EXISTS, and catalogue updates collide.
        await connection.execute("select pg_advisory_xact_lock(hashtext('backstay bootstrap'))")
        await _create_roles(connection)
        await _create_schema(connection)


async def verify(url: str) -> None:
    """Refuses a database in which one tenant could read another's rows.

    Raises:
        ConfigurationError: names the role, what is wrong with it and the statement that mends it.
    """
    async with await AsyncConnection.connect(url, connect_timeout=10, row_factory=tuple_row) as connection:
        cursor = await connection.execute(
            "select r.rolname, r.rolsuper, r.rolbypassrls, "
            " (select min(c.oid::regclass::text) from pg_class c "
            "  where c.relowner = r.oid and c.relkind in ('r', 'p')), "
            " (select min(p.rolname) from pg_roles p where p.rolname = any(%s) and p.rolname <> r.rolname "
            "  and pg_has_role(r.oid, p.oid, 'member')) "
            "from pg_roles r where r.rolname in (%s, %s) order by 1",
            [[APP, SYSTEM, OWNER, CDC], APP, SYSTEM],
        )
        rows = await cursor.fetchall()
    if len(rows) != 2:
        raise ConfigurationError("the database roles are missing; run `backstay migrate up`")
    for role, is_super, bypasses, owned, inherited in rows:
        if is_super:
            raise ConfigurationError(f"{role} is a superuser: run `alter role {role} nosuperuser`")
        if bypasses:
            raise ConfigurationError(f"{role} escapes row-level security: run `alter role {role} nobypassrls`")
        if owned:
            raise ConfigurationError(
                f"{role} owns the table {owned}, whose policies then do not bind: "
                f"run `alter table {owned} owner to {OWNER}`"
            )
        if inherited:
            raise ConfigurationError(f"{role} may act as {inherited}: run `revoke {inherited} from {role}`")


async def _require_version(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    if connection.info.server_version < MIN_POSTGRES:
        raise ConfigurationError(
            f"Postgres {connection.info.server_version // 10000} is too old: Backstay needs 16 or newer"
        )


async def _create_roles(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    standing = {row[0] for row in await (await connection.execute("select rolname from pg_roles")).fetchall()}
    for role, options in ((OWNER, ""), (APP, ""), (SYSTEM, ""), (CDC, "replication")):
        if role not in standing:
            await _run(connection, f"create role {{}} nologin nosuperuser nobypassrls {options}", role)
    cursor = await connection.execute(
        "select role from unnest(%s::text[]) role where not pg_has_role(current_user, role, 'set')",
        [[OWNER, APP, SYSTEM]],
    )
    for (role,) in await cursor.fetchall():
        await connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(role)))


async def _create_schema(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    cursor = await connection.execute("select to_regnamespace(%s) is not null", [SCHEMA])
    (exists,) = await cursor.fetchone() or (False,)
    if not exists:
        await connection.execute("create extension if not exists vector with schema public")
        database = sql.Identifier(connection.info.dbname)
        await connection.execute(
            sql.SQL("grant connect, create on database {} to {}").format(database, sql.Identifier(OWNER))
        )
        await _run(connection, "create schema {} authorization {}", SCHEMA, OWNER)
        for role in (APP, SYSTEM):
            await _run(connection, "grant usage on schema {} to {}", SCHEMA, role)
        # The user's own tables: made by their migrations, written by `app.transaction()`.
        await _run(connection, "grant usage, create on schema public to {}", OWNER)
        await _run(connection, "grant usage on schema public to {}", APP)
        for maker in (sql.Identifier(OWNER), sql.SQL("current_user")):
            for kind, rights in (("tables", "select, insert, update, delete"), ("sequences", "usage, select")):
                await connection.execute(
                    sql.SQL(
                        f"alter default privileges for role {{}} in schema public grant {rights} on {kind} to {{}}"
                    ).format(maker, sql.Identifier(APP))
                )
    cursor = await connection.execute("select extversion from pg_extension where extname = 'vector'")
    row = await cursor.fetchone()
    if row is None or tuple(int(part) for part in row[0].split(".")[:3]) < MIN_PGVECTOR:
        raise ConfigurationError(
            f"pgvector {row[0] if row else '(missing)'} is too old: Backstay needs "
            f"{'.'.join(map(str, MIN_PGVECTOR))} or newer. Update it, then run `alter extension vector update`."
        )


async def _run(connection: AsyncConnection[tuple[Any, ...]], statement: str, *names: str) -> None:
    await connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
