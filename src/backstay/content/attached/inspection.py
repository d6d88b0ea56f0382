"""Whether a table can be attached, and whether an attached one is still as it was. No I/O."""

from .models import KEY_TYPES, TEXT_TYPES, Attachment, TableDefinition, TableUnfit, TextInvalid
from .store import Condition
from .table_store import TRIGGERS, Table

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "p": "partitioned"}


def check_table(table: Table, definition: TableDefinition) -> None:
    """Raises:
    TableUnfit: names what is wrong and what mends it.
    """
    name = f"{table.schema}.{table.name}"
    if table.kind != "r" or table.related:
        what = _KINDS.get(table.kind, "not an ordinary table")
        what = "a partition, or has children" if table.kind == "r" else what
        raise TableUnfit(f"{name} is {what}: its triggers would not see all that changes; attach another table")
    if table.persistence != "p":
        raise TableUnfit(f"{name} is temporary or unlogged, so its rows can vanish without a trigger; make it logged")
    if not table.may_attach:
        raise TableUnfit(f"{table.login} may make no trigger there: grant trigger on {name} to {table.login}")
    if not table.usable:
        raise TableUnfit(f"workers cannot reach {name}: grant usage on schema {table.schema} to backstay_app")
    if not table.readable:
        raise TableUnfit(f"workers cannot read {name}: grant select on {name} to backstay_app")
    wanted = [*definition.key, *definition.columns, *([definition.tenant] if definition.tenant else [])]
    if missing := [column for column in wanted if column not in table.columns]:
        raise TableUnfit(f"{name} has no column {missing[0]!r}; it has {', '.join(sorted(table.columns))}")
    _check_key(name, table, definition)
    if definition.tenant is not None:
        _check_tenant(name, table, definition.tenant)


def _check_key(name: str, table: Table, definition: TableDefinition) -> None:
    for column in definition.key:
        found = table.columns[column]
        if found.type not in KEY_TYPES:
            raise TableUnfit(f"the key column {column} is {found.type}; a key is made of {', '.join(KEY_TYPES)}")
        if not found.required:
            raise TableUnfit(f"the key column {column} may be null: alter table {name} alter {column} set not null")
    if not any(set(columns) == set(definition.key) for columns in table.unique):
        columns = ", ".join(definition.key)
        raise TableUnfit(
            f"no unique index is on ({columns}) alone, so it does not name one row: create unique index concurrently "
            f"on {name} ({columns})"
        )


def _check_tenant(name: str, table: Table, tenant: str) -> None:
    found = table.columns[tenant]
    if found.type != "uuid" or not found.required:
        raise TableUnfit(f"the tenant column {tenant} is {found.type}; it must be a uuid that is never null")
    if tenant not in table.leading:
        raise TableUnfit(
            f"no index begins with {tenant}, so that one tenant's rows could not be found: create index concurrently "
            f"on {name} ({tenant})"
        )


def check_text(type: str, columns: list[str]) -> None:
    """Raises:
    TextInvalid
    """
    if type not in TEXT_TYPES:
        raise TextInvalid(f"the text expression gives {type}, not text: write (…)::text")
    if not columns:
        raise TextInvalid("the text expression uses no column of the table, so every row would have the same text")


def trouble(one: Attachment, found: Condition) -> str | None:
    """What keeps an attached table from being followed, and what mends it; None when nothing does."""
    if found.place is None:
        return f"{one.definition.table} is gone, or its triggers are; detach it, or attach it again"
    name = f"{found.place.schema}.{found.place.table}"
    if found.missing:
        return (
            f"{name} has no column {found.missing[0]!r} any more; rename it back, or detach the table and attach it "
            "again with another definition"
        )
    if wrong := [type for type in found.key_types if type not in KEY_TYPES]:
        return f"a key column of {name} is {wrong[0]} now; detach the table"
    if one.definition.tenant is not None and found.tenant_type != "uuid":
        return f"the tenant column of {name} is {found.tenant_type} now; detach the table"
    if found.triggers < TRIGGERS:
        return f"triggers of {name} are disabled or dropped: alter table {name} enable trigger all, or attach it again"
    if not found.readable:
        return f"workers cannot read {name}: grant select on {name} to backstay_app, and usage on its schema"
    return None
