"""Attached tables that are changed, dropped, locked, or have rows without a text: what breaks, and what never does."""

import pytest

from backstay.content.attached import (
    Attached,
    AttachedDiffers,
    AttachedState,
    TableBusy,
)
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal

from .conftest import PRODUCTS, Connection, Settle, rows, texts


async def test_a_busy_table_is_not_waited_for_long_and_can_be_tried_again(
    attached: Attached, operator: Principal, plain: Connection
) -> None:
    with plain.transaction():
        plain.execute("insert into products values (1, 'a', '')")
        with pytest.raises(TableBusy, match="try again"):
            await attached.attach(operator, "products", PRODUCTS, patience=0.05)
        assert await attached.list(operator) == []
    await attached.attach(operator, "products", PRODUCTS, patience=0.05)
    with plain.transaction():
        plain.execute("insert into products values (2, 'a', '')")
        with pytest.raises(TableBusy, match="nothing was changed"):
            await attached.detach(operator, "products", patience=0.05)
    assert (await attached.status(operator, "products")).state is AttachedState.ATTACHED


async def test_a_row_whose_text_cannot_be_computed_stops_no_other_and_no_writer(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    plain.execute(
        "create function fussy(text) returns text language plpgsql immutable as "
        "$$ begin if $1 = 'bad' then raise exception 'not that one'; end if; return $1; end $$"
    )
    plain.execute("insert into products select n, 'title ' || n, '', n from generate_series(1, 10) n")
    plain.execute("update products set price = 0 where id = 4")
    await attached.attach(
        operator, "products", PRODUCTS.model_copy(update={"text": "fussy(title) || (100 / price)::text"})
    )
    plain.execute("update products set title = 'bad' where id = 7")
    status = await settle()
    assert {"4", "7"}.isdisjoint(await texts(db, operator.tenant))
    assert len(await texts(db, operator.tenant)) == 8
    assert status.refused >= 2
    assert status.refusal
    assert "not that one" in status.refusal or "division by zero" in status.refusal
    plain.execute("update products set price = 1, title = 'good' where id in (4, 7)")
    await settle()
    assert len(await texts(db, operator.tenant)) == 10


async def test_a_renamed_column_breaks_the_attachment_and_no_write_and_all_heals_when_it_is_back(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products values (1, 'a', ''), (2, 'b', '')")
    await settle()
    plain.execute("alter table products rename title to name")
    plain.execute("insert into products values (3, 'c', '')")
    plain.execute("delete from products where id = 1")
    await attached.tending.inspect()
    status = await attached.status(operator, "products")
    assert status.state is AttachedState.BROKEN
    assert "no column 'title' any more" in str(status.trouble)
    plain.execute("insert into products values (4, 'd', '')")
    plain.execute("alter table products rename name to title")
    await attached.tending.inspect()
    await settle()
    assert await texts(db, operator.tenant) == {"2": "b", "3": "c", "4": "d"}
    told = await rows(
        db,
        operator.tenant,
        "select payload ->> 'what' from backstay.outbox where type = 'content.attached_changed' order by id",
    )
    assert [what for (what,) in told] == ["attached", "broken", "mended"]


async def test_a_renamed_table_is_followed_and_a_dropped_one_ends_in_a_clear_state(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    plain.execute("insert into products values (1, 'a', '')")
    plain.execute("alter table products rename to goods")
    plain.execute("insert into goods values (2, 'b', '')")
    await settle()
    assert await texts(db, operator.tenant) == {"1": "a", "2": "b"}
    plain.execute("create table products (id bigint primary key, title text, description text, price numeric)")
    plain.execute("grant select on products to backstay_app")
    with pytest.raises(AttachedDiffers, match=r"called public\.goods now"):
        await attached.attach(operator, "products", PRODUCTS)
    plain.execute("drop table goods")
    await attached.tending.inspect()
    status = await attached.status(operator, "products")
    assert (status.state, status.rows) == (AttachedState.BROKEN, 0)
    assert "is gone" in str(status.trouble)
    plain.execute("insert into products values (5, 'new', '')")
    await attached.attach(operator, "products", PRODUCTS)  # of that name there is another table now
    await settle()
    assert await texts(db, operator.tenant) == {"5": "new"}


async def test_disabled_triggers_and_lost_rights_break_it_until_they_are_back(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    for breaks, mends, says in (
        ("alter table products disable trigger all", "alter table products enable trigger all", "disabled"),
        ("revoke select on products from backstay_app", "grant select on products to backstay_app", "grant select"),
    ):
        plain.execute(breaks)
        plain.execute("insert into products select coalesce(max(id), 0) + 1, 'x', '' from products")
        await attached.tending.inspect()
        status = await attached.status(operator, "products")
        assert status.state is AttachedState.BROKEN
        assert says in str(status.trouble)
        plain.execute(mends)
        await attached.tending.inspect()
        await settle()
    assert len(await texts(db, operator.tenant)) == 2


async def test_a_function_of_the_text_that_is_dropped_breaks_it_and_no_write(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database
) -> None:
    plain.execute("create function loud(text) returns text language sql immutable as 'select upper($1)'")
    await attached.attach(operator, "products", PRODUCTS.model_copy(update={"text": "loud(title)"}))
    plain.execute("drop function loud(text)")
    plain.execute("insert into products values (1, 'a', '')")
    await attached.tending.inspect()
    assert "loud" in str((await attached.status(operator, "products")).trouble)
    plain.execute("create function loud(text) returns text language sql immutable as 'select upper($1)'")
    await attached.tending.inspect()
    await settle()
    assert await texts(db, operator.tenant) == {"1": "A"}
