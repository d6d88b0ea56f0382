"""The user's own table: looked up, checked, hung with triggers, read. Its queries are put together here from quoted
names and from an expression as Postgres itself has written it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from psycopg import DataError, Error, NotSupportedError, ProgrammingError, errors
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from ...kernel import sql
from ...kernel.db import Tx
from .models import Attachment, Key, Place, Row, TableBusy, TableDefinition, TableUnfit, TextInvalid

_queries = sql.load(__package__)
_EVENTS = {
    "insert": "referencing new table as new_rows",
    "update": "referencing old table as old_rows new table as new_rows",
    "delete": "referencing old table as old_rows",
    "truncate": "",
}
TRIGGERS = len(_EVENTS)
_OF_ROWS = frozenset({"22", "54", "P0"})  # classes of errors: values, limits, raised by functions


class _RowError(Exception):
    """A row, or a key, is none that the query can take: a division by zero, or an error that a function raises."""


class TableChanged(Exception):
    """The user's table is not as it was attached, or may not be read any more."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the user's table."""

    type: str
    required: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The user's table, as the login finds it."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    related: bool
    may_attach: bool
    usable: bool
    readable: bool
    columns: Mapping[str, Column]
    unique: Sequence[tuple[str, ...]]
    leading: frozenset[str]
    login: str


async def table(tx: Tx, name: str) -> Table:
    """The table that a user's words name.

    Raises:
        TableUnfit: there is none, or its schema is closed to the login.
    """
    try:
        async with tx.connection.transaction():
            oid = await _queries.table_oid.value(tx, table=name)
    except (DataError, NotSupportedError, ProgrammingError) as error:
        raise TableUnfit(f"{name} cannot be looked up: {_first_line(error)}") from None
    if oid is None:
        raise TableUnfit(f"there is no table {name}; write it as SQL does, with its schema: public.products")
    row: dict[str, Any] = await _queries.table.one(tx, dict, oid=oid)
    columns = {
        column: Column(type, required) for column, type, required in await _queries.table_columns.rows(tx, oid=oid)
    }
    unique, leading = [], set()
    for names, is_unique in await _queries.table_indexes.rows(tx, oid=oid):
        leading.add(names[0])
        if is_unique:
            unique.append(tuple(names))
    return Table(**row, columns=columns, unique=unique, leading=frozenset(leading))


async def read_expression(tx: Tx, table: Table, text: str) -> tuple[str, list[str], str]:
    """The expression as Postgres writes it on any search_path, the columns it uses, and the type it gives.

    It becomes a constraint of an empty temporary table that has the columns of the user's: there Postgres takes one
    expression over one row, without subqueries, aggregates or sets, and runs nothing. Everything is rolled back.

    Raises:
        TextInvalid: it is no such expression; the message is Postgres' own.
    """
    connection, check = tx.connection, Identifier("pg_temp", "backstay_check")
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(
                SQL("create temporary table backstay_check (like {})").format(Identifier(table.schema, table.name))
            )
            await connection.execute(
                SQL("set local search_path = {}, public").format(Identifier(table.schema)), prepare=False
            )
            # Prepared, because only then one statement is all that is taken. The line ends what a comment began.
            await connection.execute(
                SQL("alter table {} add constraint backstay_text check ((\n{}\n) is not null)").format(
                    check, SQL(text)
                ),
                prepare=True,
            )
            await connection.execute("set local search_path = pg_catalog", prepare=False)
            found = await _queries.checked.rows(tx, columns=len(table.columns))
            if len(found) != 1:
                raise TextInvalid("the text is one expression over a row's columns, and nothing else")
            written, columns, whole_row, volatile = found[0]
            if whole_row:
                raise TextInvalid("the text names the columns it uses one by one, not the whole row or system columns")
            if volatile:
                raise TextInvalid(
                    f"the text calls {volatile}, whose answer changes by itself; it may depend on the row only"
                )
            expression = written.removeprefix("(").removesuffix(" IS NOT NULL)")
            shape = await connection.execute(
                SQL("select ({}) from {} where false").format(SQL(expression), check),
                prepare=True,
            )
            assert shape.description is not None  # noqa: S101 -- it is a select
            type = await _queries.type_name.value(tx, oid=shape.description[0].type_code)
    except (DataError, NotSupportedError, ProgrammingError) as error:
        raise TextInvalid(f"the text is no expression over the table's columns: {_first_line(error)}") from None
    return expression, columns, type


async def make_trigger(tx: Tx, id: int, definition: TableDefinition, watched: Sequence[str]) -> None:
    await _queries.make_trigger.run(
        tx,
        id=id,
        tenant_column=definition.tenant,
        owner=definition.owner,
        key=list(definition.key),
        watched=list(watched),
    )


async def hang_triggers(tx: Tx, id: int, place: tuple[str, str], patience: float) -> None:
    """Hangs the triggers on the user's table, as its owner or who may. Whoever writes to it waits meanwhile, so this
    waits no longer than `patience` seconds for those who write now.

    Raises:
        TableBusy, TableUnfit
    """
    function = Identifier("backstay", f"attached_{int(id)}")
    await _wait_at_most(tx, patience)
    try:
        for event, rows in _EVENTS.items():
            await tx.connection.execute(
                SQL("create or replace trigger {} after {} on {} {} for each statement execute function {}()").format(
                    Identifier(f"backstay_{int(id)}_{event}"), SQL(event), Identifier(*place), SQL(rows), function
                ),
                prepare=False,
            )
    except errors.LockNotAvailable:
        raise _busy(".".join(place), patience) from None
    except (NotSupportedError, ProgrammingError) as error:
        raise TableUnfit(f"no trigger can be made on {'.'.join(place)}: {_first_line(error)}") from None


async def drop_trigger(tx: Tx, id: int, table: str, patience: float) -> None:
    """Raises:
    TableBusy
    """
    await _wait_at_most(tx, patience)
    try:
        await _queries.drop_trigger.run(tx, id=id)
    except errors.LockNotAvailable:
        raise _busy(table, patience) from None


async def _wait_at_most(tx: Tx, seconds: float) -> None:
    await tx.connection.execute(SQL("set local lock_timeout = {}").format(Literal(f"{int(seconds * 1000)}ms")))


def _busy(table: str, patience: float) -> TableBusy:
    return TableBusy(
        f"a transaction that uses {table} stayed open for {patience:g} s; nothing was changed. End it or try again: "
        "pg_stat_activity, ordered by xact_start, shows the oldest"
    )


async def keys_after(tx: Tx, tenant: UUID, one: Attachment, place: Place, after: Key | None, limit: int) -> list[Key]:
    """Keys of a tenant's rows in their order, after a key.

    Raises:
        TableChanged
    """
    key = SQL(", ").join(_column(name) for name in one.definition.key)
    conditions = [_of_tenant(one)]
    if after is not None:
        values = [SQL("%s::text::{}").format(SQL(type)) for type in place.key_types]
        conditions.append(SQL("({}) > ({})").format(key, SQL(", ").join(values)))
    query = SQL("select jsonb_build_array({}) from {} t where {} order by {} limit %s").format(
        key, _name(place.schema, place.table), SQL(" and ").join(conditions), key
    )
    return [row[0] for row in await _read(tx, query, [*_tenant(one, tenant), *map(str, after or ()), limit])]


async def keys_of(tx: Tx, tenant: UUID, one: Attachment, place: Place, keys: Sequence[Key]) -> list[Key]:
    """Those of these keys that a tenant's rows have.

    Raises:
        TableChanged
    """
    try:
        async with tx.connection.transaction():
            return await _keys_of(tx, tenant, one, place, keys)
    except _RowError:  # of a time when the key had another type
        if len(keys) == 1:
            return []
    middle = len(keys) // 2
    return [
        *await keys_of(tx, tenant, one, place, keys[:middle]),
        *await keys_of(tx, tenant, one, place, keys[middle:]),
    ]


async def _keys_of(tx: Tx, tenant: UUID, one: Attachment, place: Place, keys: Sequence[Key]) -> list[Key]:
    key = SQL(", ").join(_column(name) for name in one.definition.key)
    query = SQL("select jsonb_build_array({}) from {} t where {}").format(
        key, _name(place.schema, place.table), _with_keys(one, place)
    )
    return [row[0] for row in await _read(tx, query, [*_tenant(one, tenant), *_values(one, keys)])]


async def rows(
    tx: Tx, tenant: UUID, one: Attachment, place: Place, keys: Sequence[Key]
) -> tuple[list[Row], dict[str, str]]:
    """A tenant's rows with these keys, and those whose text cannot be computed, with Postgres' words about it.

    Raises:
        TableChanged
    """
    try:
        async with tx.connection.transaction():
            return await _rows(tx, tenant, one, place, keys), {}
    except _RowError as error:
        if len(keys) == 1:
            return [], {orjson.dumps(keys[0]).decode(): str(error)}
    middle = len(keys) // 2
    first, refused = await rows(tx, tenant, one, place, keys[:middle])
    second, more = await rows(tx, tenant, one, place, keys[middle:])
    return first + second, refused | more


async def _rows(tx: Tx, tenant: UUID, one: Attachment, place: Place, keys: Sequence[Key]) -> list[Row]:
    definition = one.definition
    shown = [*definition.key, *definition.columns]
    query = SQL(
        "select jsonb_build_array({}), coalesce(({})::text, ''), jsonb_build_object({})::text from {} t where {}"
    )
    composed = query.format(
        SQL(", ").join(_column(name) for name in definition.key),
        SQL(one.expression.replace("%", "%%")),  # as Postgres has written it
        SQL(", ").join(SQL("%s::text, {}").format(_column(name)) for name in shown),
        _name(place.schema, place.table),
        _with_keys(one, place),
    )
    return [Row(*row) for row in await _read(tx, composed, [*shown, *_tenant(one, tenant), *_values(one, keys)])]


async def _read(tx: Tx, query: Composed, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    try:
        async with tx.connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query, values, prepare=False)
            return await cursor.fetchall()
    except Error as error:
        if error.sqlstate and error.sqlstate[:2] in _OF_ROWS:
            raise _RowError(_first_line(error)) from None
        if isinstance(error, ProgrammingError):
            raise TableChanged(_first_line(error)) from None
        raise


def _name(*parts: str) -> Composable:
    """A quoted name, in a query with parameters: there a percent sign is written twice."""
    return SQL(Identifier(*parts).as_string().replace("%", "%%"))


def _column(name: str) -> Composable:
    return SQL("t.{}").format(_name(name))


def _of_tenant(one: Attachment) -> Composable:
    tenant = one.definition.tenant
    return SQL("true") if tenant is None else SQL("{} = %s::uuid").format(_column(tenant))


def _tenant(one: Attachment, tenant: UUID) -> list[UUID]:
    return [] if one.definition.tenant is None else [tenant]


def _with_keys(one: Attachment, place: Place) -> Composable:
    # Arrays, so that the planner knows how many there are and takes the index.
    arrays = SQL(", ").join(SQL("%s::text[]::{}[]").format(SQL(type)) for type in place.key_types)
    key = SQL(", ").join(_column(name) for name in one.definition.key)
    return SQL("{} and ({}) in (select * from unnest({}))").format(_of_tenant(one), key, arrays)


def _values(one: Attachment, keys: Sequence[Key]) -> list[list[str]]:
    return [[str(key[place]) for key in keys] for place in range(len(one.definition.key))]


def _first_line(error: Error) -> str:
    return (error.diag.message_primary or str(error)).split("\n")[0]
