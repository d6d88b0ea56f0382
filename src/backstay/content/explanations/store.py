"""Numbers for explanations: one function per query, no decisions."""

from uuid import UUID

from psycopg import sql as pgsql

from ...kernel import sql
from ...kernel.db import Tx
from ...kernel.json import dumps
from ..filters import Filter

_queries = sql.load(__package__)
_INDEX = (
    "create index concurrently {name} on backstay.content (tenant_id, collection, id) "
    "where collection = {collection} and {passes}"
)


async def documents(tx: Tx, tenant: UUID, collection: str) -> int:
    return int(await _queries.documents.value(tx, tenant=tenant, collection=collection))


async def passing(tx: Tx, tenant: UUID, collection: str, where: Filter) -> int:
    query = where.on(_queries.passing)
    return int(await query.value(tx, tenant=tenant, collection=collection, **where.parameters()))


def partial_index(name: str, collection: str, where: Filter) -> str:
    """The statement that indexes the documents which a filter lets through."""
    passes = []
    if where.contains:
        passes.append(pgsql.SQL("body @> {}::jsonb").format(_literal(where.contains)))
    if where.path is not None:
        match = pgsql.SQL("jsonb_path_match(body, {}::jsonpath, {}::jsonb, true)")
        passes.append(match.format(pgsql.Literal(where.path), _literal(where.values)))
    values = {
        "name": pgsql.Identifier(name),
        "collection": pgsql.Literal(collection),
        "passes": pgsql.SQL(" and ").join(passes),
    }
    return pgsql.SQL(_INDEX).format(**values).as_string()


def _literal(value: object) -> pgsql.Literal:
    return pgsql.Literal(dumps(value).decode())
