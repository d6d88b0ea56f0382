"""Tables of the user's own: written in plain SQL by whoever, searched like collections."""

from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backstay.app import App
from backstay.content import CollectionAttached, CollectionNotFound, Content
from backstay.content.attached import (
    Attached,
    AttachedDiffers,
    AttachedNotFound,
    AttachedState,
    TableDefinition,
)
from backstay.jobs import NotTheOperator
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

from .conftest import MODEL, PRODUCTS, Connection, Settle, Words, rows, settled, texts, until, working


async def test_rows_written_in_plain_sql_are_found_with_their_key(
    attached: Attached, content: Content, operator: Principal, plain: Connection, settle: Settle
) -> None:
    plain.execute("insert into products values (1, 'Kettle', 'boils water', 20), (2, 'Pump', 'moves water', 90)")
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products values (3, 'Lamp', 'gives light', 15)")
    status = await settle()
    assert (status.state, status.seen, status.refused) == (AttachedState.ATTACHED, 3, 0)
    hits = (await content.named("products").search("light", mode="text", by=operator)).hits
    assert [(hit.id, hit.body) for hit in hits] == [("3", {"id": 3, "price": 15})]
    both = await content.named("products").search("water", mode="text", where={"price": {"$lt": 50}}, by=operator)
    assert [hit.body["id"] for hit in both.hits] == [1]


async def test_each_kind_of_statement_is_followed(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products select n, 'title ' || n, 'text' from generate_series(1, 6) n")
    with plain.cursor() as cursor, cursor.copy("copy products (id, title, description) from stdin") as copy:
        copy.write_row((7, "copied", "in"))
    plain.execute("update products set title = 'changed' where id = 2")
    plain.execute("update products set id = 30 where id = 3")
    plain.execute("delete from products where id = 4")
    plain.execute(
        "insert into products values (5, 'upserted', 'text'), (8, 'new', 'text') "
        "on conflict (id) do update set title = excluded.title"
    )
    plain.execute(
        "merge into products p using (values (6, 'merged'), (9, 'made')) m (id, title) on p.id = m.id "
        "when matched then update set title = m.title when not matched then insert values (m.id, m.title, 'text')"
    )
    await settle()
    assert await texts(db, operator.tenant) == {
        "1": "title 1\ntext",
        "2": "changed\ntext",
        "30": "title 3\ntext",
        "5": "upserted\ntext",
        "6": "merged\ntext",
        "7": "copied\nin",
        "8": "new\ntext",
        "9": "made\ntext",
    }


async def test_truncate_removes_the_documents_and_rows_written_after_it_stay(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products select n, 'old', '' from generate_series(1, 450) n")
    await settle()
    with plain.transaction():
        plain.execute("truncate products")
        plain.execute("insert into products values (7, 'new', '')")
    await settle()
    assert await texts(db, operator.tenant) == {"7": "new"}
    assert await rows(db, operator.tenant, "select count(*) from backstay.content") == [(1,)]


async def test_what_is_rolled_back_leaves_nothing(
    attached: Attached, operator: Principal, plain: Connection, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    with plain.transaction(force_rollback=True):
        plain.execute("insert into products values (1, 'never', 'there')")
        plain.execute("truncate products")
    assert await rows(db, operator.tenant, "select 1 from backstay.attached_change") == []
    async with db.system_tx() as tx:
        assert await (await tx.execute("select 1 from backstay.attached_change")).fetchall() == []


async def test_a_change_that_leaves_the_text_alone_costs_no_embedding_and_one_of_other_columns_notes_nothing(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database, words: Words
) -> None:
    plain.execute("alter table products add column stock int")
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products values (1, 'Kettle', 'boils', 20)")
    await settle()
    calls = len(words.calls)
    plain.execute("update products set stock = 5, title = title")
    assert await rows(db, operator.tenant, "select 1 from backstay.attached_change") == []
    plain.execute("update products set price = 21")
    await settle()
    body = await rows(db, operator.tenant, "select body from backstay.content")
    assert body == [({"id": 1, "price": 21},)]
    assert len(words.calls) == calls
    plain.execute("update products set title = 'Kettles'")
    await settle()
    await settled(db, attached.tending._jobs, operator.tenant)
    assert words.texts[-1] == "Kettles\nboils"


async def test_a_statement_adds_a_row_a_thousand_keys_and_calls_nobody(
    attached: Attached, operator: Principal, plain: Connection, db: Database, words: Words
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products select n, 'title', '' from generate_series(1, 2500) n")
    found = await rows(db, operator.tenant, "select jsonb_array_length(keys) from backstay.attached_change order by 1")
    assert found == [(500,), (1000,), (1000,)]
    assert words.calls == []


async def test_a_writer_waits_for_no_lock_of_ours_and_asks_nobody(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database, database_url: str
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products values (1, 'one', '')")
    with psycopg.connect(database_url) as ours:  # all that a worker could hold, and more
        tables = ours.execute(
            "select string_agg(oid::regclass::text, ', ') from pg_class where relkind = 'r' "
            "and relnamespace = 'backstay'::regnamespace and relname <> 'attached_change'"
        ).fetchone()
        assert tables is not None
        ours.execute(f"lock table {tables[0]} in access exclusive mode")
        ours.execute("delete from backstay.attached_change")
        plain.execute("set lock_timeout = '1s'")
        plain.execute("update products set title = 'two'")
        plain.execute("insert into products values (2, 'b', '')")
        plain.execute("delete from products where id = 1")
        plain.execute("truncate products")
        plain.execute("insert into products values (3, 'c', '')")
        ours.rollback()
    await settle()
    assert await texts(db, operator.tenant) == {"3": "c"}


async def test_detaching_leaves_the_documents_or_purges_them_and_the_table_as_it_was(
    attached: Attached, content: Content, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products select n, 'title', '' from generate_series(1, 300) n")
    await settle()
    await attached.detach(operator, "products")
    plain.execute("delete from products where id = 1")
    triggers = "select 1 from pg_trigger where tgrelid = 'products'::regclass"
    assert plain.execute(triggers).fetchall() == []
    assert plain.execute("select 1 from pg_proc where proname like 'attached\\_%'").fetchall() == []
    assert len(await texts(db, operator.tenant)) == 300
    with pytest.raises(AttachedDiffers, match="attach it again"):
        await attached.resync(operator, "products")
    await attached.detach(operator, "products", purge=True)
    assert (await attached.detach(operator, "products")).state is AttachedState.PURGING
    async with working(attached.tending._jobs):

        async def gone() -> bool:
            await attached.tending.spread()
            return await attached.list(operator) == []

        await until(gone)
    assert await texts(db, operator.tenant) == {}
    assert plain.execute("select count(*) from products").fetchone() == (299,)
    with pytest.raises(AttachedNotFound):
        await attached.detach(operator, "products")
    await content.named("products").put("mine", {"text": "now"}, by=operator)


async def test_documents_of_a_table_are_written_by_writing_the_table(
    attached: Attached, content: Content, operator: Principal, plain: Connection, settle: Settle
) -> None:
    plain.execute("insert into products values (1, 'a', '')")
    await attached.attach(operator, "products", PRODUCTS)
    with pytest.raises(CollectionAttached):  # its name is kept before the first row is there
        await content.declare(operator, "products", PRODUCTS.of_collection)
    await settle()
    products = content.named("products")
    with pytest.raises(CollectionAttached):
        await products.put("1", {"text": "mine"}, by=operator)
    with pytest.raises(CollectionAttached):
        await products.delete("1", by=operator)


async def test_only_the_operator_attaches(attached: Attached, owner: Principal, plain: Connection) -> None:
    for refused in (
        attached.attach(owner, "products", PRODUCTS),
        attached.detach(owner, "products"),
        attached.list(owner),
        attached.resync(owner, "products"),
    ):
        with pytest.raises(NotTheOperator):
            await refused


async def test_two_tenants_rows_are_each_found_by_their_own_tenant_only(
    attached: Attached,
    content: Content,
    operator: Principal,
    owner: Principal,
    other_owner: Principal,
    plain: Connection,
    settle: Settle,
    db: Database,
) -> None:
    plain.execute(
        "create table ticket (tenant_id uuid not null, id int not null, title text, primary key (tenant_id, id))"
    )
    plain.execute("alter table ticket enable row level security")
    plain.execute("alter table ticket force row level security")
    plain.execute(
        "create policy tenant on ticket using (tenant_id = "
        "(select nullif(current_setting('backstay.tenant_id', true), '')::uuid))"
    )
    insert = "insert into ticket values (%s, %s, %s)"
    mine, theirs = owner.tenant, other_owner.tenant
    plain.execute(insert, [mine, 1, "word before"])
    plain.execute(insert, [theirs, 1, "word theirs"])
    await attached.attach(
        operator,
        "ticket",
        TableDefinition(table="ticket", key=("id", "tenant_id"), text="title", tenant="tenant_id", embedder=MODEL),
    )
    async with db.tenant_tx(mine) as tx:  # as the application, fenced
        await tx.execute(insert, [mine, 2, "word after"])
    await settle("ticket")
    ticket = content.named("ticket")
    for by, words in ((owner, ["word after", "word before"]), (other_owner, ["word theirs"])):
        assert sorted(hit.text for hit in (await ticket.search("word", mode="text", by=by)).hits) == words
    plain.execute("update ticket set tenant_id = %s, id = 9 where title = 'word after'", [theirs])
    await settle("ticket")
    assert [hit.text for hit in (await ticket.search("word", mode="text", by=owner)).hits] == ["word before"]
    assert len((await ticket.search("word", mode="text", by=other_owner)).hits) == 2
    async with db.tenant_tx(mine) as tx:
        assert await (await tx.execute("select 1 from ticket where tenant_id = %s", [theirs])).fetchall() == []
        seen = await (await tx.execute("select distinct tenant_id from backstay.attached_fill")).fetchall()
        assert seen == [(mine,)]
    plain.execute("truncate ticket")
    await settle("ticket")
    assert (await texts(db, mine, "ticket"), await texts(db, theirs, "ticket")) == ({}, {})


async def test_a_table_of_one_tenant_is_nobody_elses(
    attached: Attached,
    content: Content,
    operator: Principal,
    owner: Principal,
    other_owner: Principal,
    plain: Connection,
    settle: Settle,
) -> None:
    plain.execute("insert into products values (1, 'secret', '')")
    await attached.attach(operator, "products", PRODUCTS.model_copy(update={"owner": owner.tenant}))
    await settle()
    assert len((await content.named("products").search("secret", mode="text", by=owner)).hits) == 1
    for by in (other_owner, operator):
        with pytest.raises(CollectionNotFound):
            await content.named("products").search("secret", mode="text", by=by)
    # The name is free for others.
    await content.named("products").search("x", mode="text", by=owner)
    await content.declare(other_owner, "products", PRODUCTS.of_collection)


async def test_a_writer_with_odd_settings_is_followed_and_keeps_them(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    with plain.transaction():
        plain.execute(
            "set local row_security = off; set local standard_conforming_strings = off; set local search_path = '';"
            "set local datestyle = 'SQL, DMY'; set local backstay.tenant_id = 'nonsense'"
        )
        plain.execute("insert into public.products values (1, 'a', '')")
        plain.execute("update public.products set title = 'b'")
        kept = plain.execute("select current_setting('backstay.tenant_id'), current_setting('row_security')").fetchone()
        assert kept == ("nonsense", "off")
    await settle()
    assert await texts(db, operator.tenant) == {"1": "b"}


@pytest.mark.parametrize("owns", [True, False])
async def test_a_login_that_is_no_superuser_attaches_and_detaches(
    plain: Connection, database_url: str, settings: Settings, owns: bool
) -> None:
    role = f"login_{uuid4().hex[:8]}"
    plain.execute(f"create role {role} login in role backstay_owner, backstay_app, backstay_system")
    plain.execute(f"alter table products owner to {role}" if owns else f"grant trigger on products to {role}")
    app = App(settings.model_copy(update={"database_url": make_conninfo(database_url, user=role)}))
    try:
        async with app:
            by = await app.auth.operator()
            await app.attached.attach(by, "products", PRODUCTS.model_copy(update={"embedder": None}))
            plain.execute("insert into products values (1, 'a', '')")

            async def current() -> bool:
                return (await app.attached.status(by, "products")).current

            async with working(app.jobs):
                await until(current)
            assert await texts(app.db, by.tenant) == {"1": "a"}
            await app.attached.detach(by, "products")
    finally:
        plain.execute(f"reassign owned by {role} to current_user")
        plain.execute(f"drop owned by {role}")
        plain.execute(f"drop role {role}")


async def test_a_writer_without_any_right_on_our_schema_writes_its_own_table(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database, database_url: str
) -> None:
    role = f"clerk_{uuid4().hex[:8]}"
    plain.execute(f"create role {role} login")
    try:
        plain.execute(f"grant insert, update, delete, select, truncate on products to {role}")
        await attached.attach(operator, "products", PRODUCTS)
        with psycopg.connect(database_url, autocommit=True, options=f"-c role={role}") as clerk:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                clerk.execute("select 1 from backstay.attached_change")
            clerk.execute(
                "create temporary table new_rows (id int); create temporary table pg_attribute (attname text)"
            )
            clerk.execute("insert into products values (1, 'a', ''), (2, 'b', '')")
            clerk.execute("update products set title = 'c' where id = 1")
            clerk.execute("delete from products where id = 2")
            assert clerk.execute("select current_setting('backstay.tenant_id', true)").fetchone() in [("",), (None,)]
            clerk.execute("create temporary table mine (id int)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                clerk.execute(
                    "create trigger t after insert on mine for each statement execute function backstay.attached_1()"
                )
        await settle()
        assert await texts(db, operator.tenant) == {"1": "c"}
    finally:
        plain.execute(f"drop owned by {role}")
        plain.execute(f"drop role {role}")


async def test_attaching_and_detaching_are_in_the_audit(
    attached: Attached, operator: Principal, plain: Connection, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    await attached.resync(operator, "products")
    await attached.detach(operator, "products")
    found = await rows(
        db,
        operator.tenant,
        "select action, resource from backstay.audit_entry where action ^@ 'content.' order by id",
    )
    assert found == [
        ("content.table.attached", "content:products"),
        ("content.table.resync", "content:products"),
        ("content.table.detached", "content:products"),
    ]
