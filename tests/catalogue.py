"""What the migrated database says about itself, for tests that hold for every table there is."""

import json
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from backstay.kernel.migrate import history

Connection = psycopg.Connection[Any]
TABLE_IN_SQL = re.compile(r"^create (?:unlogged )?table backstay\.(\w+)\s*(.*)$", re.MULTILINE)


def tables_in_the_migrations() -> list[str]:
    """Names of the tables that the migrations make, read from their text: tests are collected without a database."""
    return sorted({match[1] for step in history() for match in TABLE_IN_SQL.finditer(step.up)})


def tables(connection: Connection) -> dict[str, bool]:
    """Every table of the schema backstay, and whether it has a tenant_id."""
    rows = connection.execute(
        "select c.relname, exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'"
        " and not a.attisdropped) from pg_class c where c.relnamespace = 'backstay'::regnamespace"
        " and c.relkind in ('r', 'p', 'f') order by 1"
    ).fetchall()
    return dict(rows)


def dump(connection: Connection) -> dict[str, list[str]]:
    """A text for everything in the schema that a migration can make: equal dumps mean equal schemas."""
    return {
        part: [str(row[0]) for row in connection.cursor(row_factory=tuple_row).execute(query).fetchall()]  # type: ignore[arg-type]
        for part, query in _DUMP.items()
    }


_HERE = "n.nspname = 'backstay'"
_DUMP = {
    "columns": f"""
        select format('%s.%s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                      pg_get_expr(d.adbin, d.adrelid))
        from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where {_HERE} and c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attnum > 0 and not a.attisdropped order by 1""",
    "relations": f"""
        select format('%s %s %s rls=%s force=%s owner=%s acl=%s options=%s parent=%s', c.relname, c.relkind,
            c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole,
            (select array_agg(x::text order by x::text) from unnest(c.relacl) x), c.reloptions,
            (select i.inhparent::regclass from pg_inherits i where i.inhrelid = c.oid))
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_HERE} and c.relkind <> 'i'
        and c.relkind <> 'I' order by 1""",
    "indexes": f"""
        select pg_get_indexdef(i.indexrelid) from pg_index i join pg_class c on c.oid = i.indexrelid
        join pg_namespace n on n.oid = c.relnamespace where {_HERE} order by 1""",
    "constraints": f"""
        select format('%s %s %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
        from pg_constraint k join pg_namespace n on n.oid = k.connamespace where {_HERE} order by 1""",
    "policies": """
        select format('%s.%s %s %s using=%s check=%s', tablename, policyname, roles, cmd, qual, with_check)
        from pg_policies where schemaname = 'backstay' order by 1""",
    "functions": f"""
        select format('%s owner=%s acl=%s', pg_get_functiondef(p.oid), p.proowner::regrole, p.proacl)
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_HERE} order by 1""",
    "triggers": f"""
        select pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
        join pg_namespace n on n.oid = c.relnamespace where {_HERE} and not t.tgisinternal order by 1""",
    "types": f"""
        select format('%s %s', t.typname, t.typtype) from pg_type t join pg_namespace n on n.oid = t.typnamespace
        where {_HERE} and t.typtype in ('d', 'e', 'r') order by 1""",
}


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    base: str
    modifier: int


def required_columns(connection: Connection, table: str) -> list[Column]:
    """Columns without which no row can be inserted, and tenant_id."""
    rows = connection.execute(
        "select a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.atttypmod"
        " from pg_attribute a join pg_type t on t.oid = a.atttypid"
        " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''"
        " and a.attidentity = '' and (a.attname = 'tenant_id' or (a.attnotnull and not a.atthasdef)) order by a.attnum",
        [f"backstay.{table}"],
    ).fetchall()
    return [Column(*row) for row in rows]


def sample(column: Column, tenant: UUID) -> Any:
    """A value of the column's type, another one on each call where the type has enough of them."""
    if column.name == "tenant_id":
        return tenant
    if column.base.startswith("_"):
        return []
    dimensions = max(column.modifier, 1)
    if column.base in ("vector", "halfvec"):
        return f"[{','.join(['0.5'] * dimensions)}]"
    samples: dict[str, Any] = {
        "uuid": uuid4(),
        "text": f"sample {uuid4().hex}",
        "varchar": uuid4().hex[:8],
        "bytea": uuid4().bytes,
        "json": json.dumps({"sample": True}),
        "jsonb": json.dumps({"sample": True}),
        "timestamptz": "2026-01-01T00:00:00Z",
        "date": "2026-01-01",
        "interval": "1 second",
        "bool": True,
        "int2": uuid4().int % 30_000,
        "int4": uuid4().int % 2_000_000_000,
        "int8": uuid4().int % 9_000_000_000_000,
        "numeric": 1,
        "float4": 1.5,
        "float8": 1.5,
        "sparsevec": f"{{1:0.5}}/{dimensions}",
        "int4range": "[1,2)",
        "int8range": "[1,2)",
        "tstzrange": "[2026-01-01,2026-01-02)",
    }
    return samples[column.base]


def insert_sample(connection: Connection, table: str, tenant: UUID) -> None:
    """One row of the tenant with samples in every column that has to be filled."""
    columns = required_columns(connection, table)
    connection.execute(
        sql.SQL("insert into backstay.{} ({}) values ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
            sql.SQL(", ").join(sql.SQL("%s::" + column.type) for column in columns),  # type: ignore[arg-type]
        ),
        [sample(column, tenant) for column in columns],
    )


def drop_checks(connection: Connection) -> None:
    """Lets sample rows in that no CHECK would accept. For a throw-away database only; policies stay as they are."""
    rows = connection.execute(
        "select k.conrelid::regclass::text, k.conname from pg_constraint k"
        " where k.connamespace = 'backstay'::regnamespace and k.contype = 'c' and k.conislocal and k.coninhcount = 0"
    ).fetchall()
    for table, name in rows:
        connection.execute(sql.SQL("alter table {} drop constraint {}").format(sql.SQL(table), sql.Identifier(name)))
