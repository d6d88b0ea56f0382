"""What can be attached: tables, keys and text expressions, however they are named; what is refused, and the mend."""

from uuid import uuid4

import pytest
from psycopg import sql

from backstay.content import CollectionDiffers, Content
from backstay.content.attached import (
    Attached,
    AttachedDiffers,
    TableDefinition,
    TableUnfit,
    TextInvalid,
)
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal

from .conftest import PRODUCTS, Connection, Settle, Words, rows, settled, texts


async def test_the_same_definition_again_changes_nothing_and_another_says_what_differs(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database, words: Words
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products values (1, 'Kettle', 'boils', 20)")
    await settle()
    await settled(db, attached.tending._jobs, operator.tenant)
    again = await attached.attach(operator, "products", PRODUCTS)
    assert (again.filling, again.current) == (0, True)
    same = PRODUCTS.model_copy(update={"text": " title||E'\n' || /* the same */ description"})
    assert (await attached.attach(operator, "products", same)).current
    with pytest.raises(AttachedDiffers, match=r"text: .*title \|\| E.* stands, not 'title'.*detach products"):
        await attached.attach(operator, "products", PRODUCTS.model_copy(update={"text": "title"}))
    with pytest.raises(AttachedDiffers, match="title"):
        await attached.attach(operator, "products", PRODUCTS.model_copy(update={"columns": ("title",)}))
    calls = len(words.calls)
    await attached.detach(operator, "products")
    plain.execute("insert into products values (2, 'unseen', '')")
    await attached.attach(
        operator, "products", PRODUCTS.model_copy(update={"text": "title || E'\\n' || coalesce(description, '')"})
    )
    await settle()
    await settled(db, attached.tending._jobs, operator.tenant)
    assert await texts(db, operator.tenant) == {"1": "Kettle\nboils", "2": "unseen"}
    assert [text for call in words.calls[calls:] for text in call] == ["unseen"]


async def test_a_name_that_a_collection_has_is_refused(
    attached: Attached, content: Content, operator: Principal, plain: Connection
) -> None:
    await content.declare(operator, "products", PRODUCTS.of_collection)
    with pytest.raises(CollectionDiffers, match="under another name"):
        await attached.attach(operator, "products", PRODUCTS)
    assert plain.execute("select 1 from pg_trigger where tgrelid = 'products'::regclass").fetchall() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("titel", 'column "titel" does not exist'),
        ("price", "gives numeric, not text"),
        ("title ||", "syntax error"),
        ("title || random()::text", r"random\(\), whose answer changes"),
        ("title || clock_timestamp()::text", "whose answer changes"),
        ("max(title)", "aggregate functions are not allowed"),
        ("(select secret from vault)", "cannot use subquery"),
        ("'fixed'", "uses no column"),
        ("products::text", 'column "products" does not exist'),
        ("backstay_check::text", "one by one"),
        ("title || ctid::text", "system column"),
        ("title) is not null), add column evil bool default ((current_user", "one expression"),
        ("title) is not null); drop table products; --", "multiple commands|syntax error"),
        ("title from products; select title", "syntax error"),
        ("title /* ", "unterminated"),
        ("title -- ", None),
        ("concat_ws(E'\\n', title, '100%', description)", None),
        ("coalesce(title, '') || ' costs ' || price::text", None),
    ],
)
async def test_the_text_is_one_expression_over_a_row_and_nothing_else(
    attached: Attached, operator: Principal, plain: Connection, text: str, says: str | None, settle: Settle
) -> None:
    definition = PRODUCTS.model_copy(update={"text": text})
    if says is None:
        plain.execute("insert into products values (1, 'a', 'b', 2)")
        await attached.attach(operator, "products", definition)
        assert (await settle()).refused == 0
        return
    with pytest.raises(TextInvalid, match=says):
        await attached.attach(operator, "products", definition)
    assert await attached.list(operator) == []


@pytest.mark.parametrize(
    ("make", "change", "says"),
    [
        ("select 1", {"table": "nowhere"}, "there is no table"),
        ("select 1", {"table": "a.b.c.d"}, "improper|cannot be looked up"),
        ("select 1", {"table": "products; drop table products"}, "there is no table"),
        ("select 1", {"key": ("nr",)}, "no column 'nr'"),
        ("select 1", {"key": ("title",)}, "create unique index concurrently on public.products"),
        ("create unique index on products (price)", {"key": ("price",)}, "is numeric"),
        ("create unique index on products (description)", {"key": ("description",)}, "set not null"),
        ("create unique index on products (title) where id > 5", {"key": ("title",)}, "no unique index"),
        ("create view seen as select * from products", {"table": "seen"}, "is a view"),
        ("create unlogged table fast (id int primary key, title text)", {"table": "fast"}, "unlogged"),
        (
            "create table parts (id int primary key, title text) partition by range (id)",
            {"table": "parts"},
            "is partitioned",
        ),
        ("create table child () inherits (products)", {}, "has children"),
        ("select 1", {"tenant": "id"}, "must be a uuid"),
        ("alter table products add column tenant_id uuid not null", {"tenant": "tenant_id"}, "no index begins with"),
        ("revoke select on products from backstay_app", {}, "grant select on public.products to backstay_app"),
        (
            "create schema shut; create table shut.t (id int primary key, title text)",
            {"table": "shut.t"},
            "grant usage",
        ),
    ],
)
async def test_a_table_that_cannot_be_followed_is_refused_with_the_mend(
    attached: Attached, operator: Principal, plain: Connection, make: str, change: dict[str, object], says: str
) -> None:
    plain.execute(make)
    definition = PRODUCTS.model_copy(update={"columns": (), "text": "title", **change})
    with pytest.raises(TableUnfit, match=says):
        await attached.attach(operator, "products", definition)
    assert await attached.list(operator) == []
    assert plain.execute("select 1 from pg_trigger where tgrelid = 'products'::regclass").fetchall() == []


async def test_hostile_names_keys_and_texts_are_only_names_keys_and_texts(
    attached: Attached, content: Content, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    schema, table = 'od"d %s; schema', "ta'ble {}\n--"
    columns = ["k\"1'$body$ $trigger$", "lang{}%s", 'te"xt); drop table products; --', "value"]
    plain.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    name = sql.Identifier(schema, table)
    plain.execute(
        sql.SQL("create table {} ({} text, {} text, {} text, {} text, primary key ({}, {}))").format(
            name, *map(sql.Identifier, columns), *map(sql.Identifier, columns[:2])
        )
    )
    for grant in (
        "grant usage on schema {} to backstay_app",
        "grant select on all tables in schema {} to backstay_app",
    ):
        plain.execute(sql.SQL(grant).format(sql.Identifier(schema)))
    definition = TableDefinition(
        table=name.as_string(plain),
        key=(columns[0], columns[1]),
        text=f"{sql.Identifier(columns[2]).as_string(plain)} || '%s {{}} %(a)s'",
        columns=(columns[3],),
        embedder=None,
    )
    keys = [
        ("'; drop table products; --", "%s"),
        ('"', "\\"),
        ("", "{}"),
        ("[1]", "ü\n\t\U0001f600"),
        ("x" * 900, "null"),
    ]
    doubled = sql.SQL(name.as_string(plain).replace("%", "%%"))  # type: ignore[arg-type]
    insert = sql.SQL("insert into {} values (%s, %s, %s, %s)").format(doubled)
    plain.execute(insert, [*keys[0], "before", "v"])
    await attached.attach(operator, "odd", definition)
    for place, key in enumerate(keys[1:]):
        plain.execute(insert, [*key, f"word{place} '); drop table products; --", "v"])
    assert (await settle("odd")).refused == 0
    assert len(await texts(db, operator.tenant, "odd")) == 5
    (hit,) = (await content.named("odd").search("word3", mode="text", by=operator)).hits
    assert hit.body == {columns[0]: "x" * 900, columns[1]: "null", columns[3]: "v"}
    plain.execute(
        sql.SQL("update {} set {} = 'moved' where {} = '[1]'").format(
            name, sql.Identifier(columns[0]), sql.Identifier(columns[0])
        )
    )
    plain.execute(sql.SQL("delete from {} where {} = ''").format(name, sql.Identifier(columns[0])))
    await settle("odd")
    found = await rows(db, operator.tenant, "select body from backstay.content")
    assert {str(body[columns[0]]) for (body,) in found} == {keys[0][0], '"', "moved", "x" * 900}  # type: ignore[index]


async def test_keys_of_uuid_text_date_and_several_columns(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    plain.execute("set datestyle = 'SQL, DMY'")
    plain.execute(
        "create table facts (day date, u uuid, n smallint, word varchar(20), title text, primary key (n, day, word, u))"
    )
    definition = TableDefinition(table="facts", key=("day", "u", "n", "word"), text="title", embedder=None)
    one, two = uuid4(), uuid4()
    insert = "insert into facts values ('2026-01-31', %s, %s, %s, %s)"
    plain.execute(insert, [one, 3, "a,b", "first"])
    await attached.attach(operator, "facts", definition)
    plain.execute(insert, [two, -4, 'c"d', "second"])
    await settle("facts")
    found = await rows(db, operator.tenant, "select id, body from backstay.content order by body ->> 'n'")
    assert [body for _, body in found] == [
        {"day": "2026-01-31", "u": str(two), "n": -4, "word": 'c"d'},
        {"day": "2026-01-31", "u": str(one), "n": 3, "word": "a,b"},
    ]
    assert found[1][0] == f'["2026-01-31","{one}",3,"a,b"]'
    plain.execute("delete from facts where n = 3")
    await attached.resync(operator, "facts")
    await settle("facts")
    assert await texts(db, operator.tenant, "facts") == {f'["2026-01-31","{two}",-4,"c\\"d"]': "second"}
