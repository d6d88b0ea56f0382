"""A search among the ids that the caller's own SQL gives: by words and by vectors, under the caller's rights."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from backstay.content import Collection, Content
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid

from .conftest import settled

PRODUCT = """
create table product (tenant_id uuid not null, id int not null, name text not null, price int not null,
                      primary key (tenant_id, id));
alter table product enable row level security;
alter table product force row level security;
create policy tenant on product
    using (tenant_id = (select nullif(current_setting('backstay.tenant_id', true), '')::uuid));
"""


@pytest.fixture
async def products(
    notes: Collection, database_url: str, db: Database, jobs: Jobs, tenant: UUID, other_tenant: UUID
) -> Collection:
    """Twenty of one tenant, named by their number; and of another, with the same ids and other prices."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(PRODUCT)
    for owner, price in ((tenant, "id"), (other_tenant, "100")):
        await notes.put_many([(str(n), {"text": f"badat number{n}"}) for n in range(20)], tenant=owner)
        async with db.tenant_tx(owner) as tx:
            await tx.execute(
                f"insert into product select %s, id, 'p' || id, {price} from generate_series(0, 19) id", [owner]
            )
    await settled(db, jobs, tenant, other_tenant)
    return notes


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
@pytest.mark.parametrize(
    "within",
    [
        "select id from product where price < 3",
        "select id from product where price < 3;",
        "select id from product where price < 3 -- the cheap ones",
        ("select id from product where price < %s", [3]),
        ("select id from product where price < %(most)s and price < %(most)s", {"most": 3}),
        ("select id from product where name = any(%s) and price >= %s", [["p0", "p1", "p2"], 0]),
        ("select unnest(%s::text[])", [["0", "1", "2", "2", "gone"]]),
    ],
)
async def test_only_ids_that_the_query_gives_are_found(
    products: Collection, tenant: UUID, mode: Any, within: Any
) -> None:
    answer = await products.search("badat", mode=mode, k=20, within=within, tenant=tenant)
    assert sorted(hit.id for hit in answer.hits) == ["0", "1", "2"]


@pytest.mark.parametrize("mode", ["text", "semantic"])
async def test_it_runs_with_the_callers_rights(
    products: Collection, tenant: UUID, other_tenant: UUID, mode: Any
) -> None:
    cheap = ("select id from product where price < %s", [50])
    assert len((await products.search("badat", mode=mode, k=20, within=cheap, tenant=tenant)).hits) == 20
    assert (await products.search("badat", mode=mode, k=20, within=cheap, tenant=other_tenant)).hits == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await products.search("badat", mode=mode, within="select rolname from pg_authid", tenant=tenant)


@pytest.mark.parametrize("name", ["p1' or true --", "p1') or (true", "%(tenant)s", "\\'; drop table product; --"])
async def test_a_value_never_becomes_sql(products: Collection, tenant: UUID, name: str) -> None:
    within = ("select id from product where name = %s", [name])
    for mode in ("text", "semantic"):
        assert (await products.search("badat", mode=mode, within=within, tenant=tenant)).hits == []  # type: ignore[arg-type]


async def test_it_goes_together_with_where(products: Collection, tenant: UUID) -> None:
    within = ("select id from product where price < %s", [10])
    where = {"text": {"$in": ["badat number3", "badat number12"]}}
    answer = await products.search("badat", where=where, within=within, tenant=tenant)
    assert [hit.id for hit in answer.hits] == ["3"]


async def test_the_index_gives_up_nothing_of_a_selection(
    products: Collection, content: Content, database_url: str, tenant: UUID
) -> None:
    """The index is asked though it has to pass over most: what it lacks is looked for exactly."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("update backstay.space set indexed_at = now()")
    content.searcher.exact_rows = 1
    answer = await products.search("badat", mode="semantic", within="select 7 union select 8", tenant=tenant)
    assert sorted(hit.id for hit in answer.hits) == ["7", "8"]


@pytest.mark.parametrize(
    ("within", "says"),
    [
        ("", "1 to"),
        ("select id from product where name like 'p%'", "bare %"),
        ("select id %% 2 from product", "bare %"),
        ("select id from product where price = %s", "no value"),
        (("select id from product where price = %(a)s", {"b": 1}), "'a' and no value"),
        (("select id from product where price = %s", [1, 2]), "no place for the value '1'"),
    ],
)
async def test_what_cannot_be_is_refused(notes: Collection, tenant: UUID, within: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        await notes.search("badat", within=within, tenant=tenant)
