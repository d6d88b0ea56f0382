"""An event exists if and only if its transaction commits."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from backstay.app import App
from backstay.events import Events
from backstay.kernel.clock import SystemClock
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings


@pytest.fixture
def events(db: Database) -> Events:
    return Events(db, SystemClock())


@pytest.fixture
async def other(database_url: str, settings: Settings) -> AsyncIterator[Database]:
    async with Database(database_url, settings) as database:
        yield database


async def test_a_committed_event_is_there_as_it_was_emitted(db: Database, events: Events, owner: Principal) -> None:
    payload: dict[str, Any] = {"id": 7, "nested": {"list": [1, "zwei", None, 2.5, True]}, "text": 'ü ✓ "quoted"'}
    async with db.tenant_tx(owner.tenant) as tx:
        id = await events.emit(tx, "order.paid", payload)
    (found,) = await events.page(owner)
    assert (found.id, found.tenant_id, found.type, found.payload) == (id, owner.tenant, "order.paid", payload)


async def test_an_event_rolls_back_with_its_transaction(db: Database, events: Events, owner: Principal) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.tenant_tx(owner.tenant) as tx:
            await events.emit(tx, "order.paid", {})
            raise ZeroDivisionError
    assert await events.page(owner) == []


async def test_several_events_stand_in_their_order_and_are_checked_as_one_is(
    db: Database, events: Events, owner: Principal
) -> None:
    async with db.tenant_tx(owner.tenant) as tx:
        await events.emit_many(tx, "order.paid", [{"n": n} for n in range(20)])
        await events.emit_many(tx, "order.lost", [])
        for wrong in ([{"n": 2**64}], [{"text": "\udfff"}]):
            with pytest.raises(Invalid, match="stored as JSON"):
                await events.emit_many(tx, "order.paid", wrong)
        with pytest.raises(Invalid, match="reads like"):
            await events.emit_many(tx, "Paid", [{}])
    assert [event.payload for event in await events.page(owner)] == [{"n": n} for n in reversed(range(20))]


async def test_a_relay_in_another_process_is_woken_by_the_commit(
    db: Database, other: Database, events: Events, tenant: UUID
) -> None:
    with other.notifier.subscribe("outbox") as subscription:
        assert await subscription.wait(10)  # it listens
        async with db.tenant_tx(tenant) as tx:
            await events.emit(tx, "order.paid", {})
            assert not await subscription.wait(0.05)
        assert await subscription.wait(10)


async def test_a_system_transaction_has_to_name_the_tenant(
    db: Database, events: Events, owner: Principal, other_owner: Principal
) -> None:
    async with db.system_tx() as tx:
        with pytest.raises(Invalid, match="needs a tenant"):
            await events.emit(tx, "order.paid", {})
        await events.emit(tx, "order.paid", {"whose": "ours"}, tenant=owner.tenant)
        await events.emit(tx, "order.paid", {"whose": "theirs"}, tenant=other_owner.tenant)
    assert [event.payload for event in await events.page(owner)] == [{"whose": "ours"}]
    assert [event.payload for event in await events.page(other_owner)] == [{"whose": "theirs"}]


async def test_a_tenant_cannot_emit_for_another(
    db: Database, events: Events, owner: Principal, other_tenant: UUID
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with db.tenant_tx(owner.tenant) as tx:
            await events.emit(tx, "order.paid", {}, tenant=other_tenant)


@pytest.mark.parametrize(
    "type", ["", "paid", "Order.Paid", "order.", ".paid", "order paid", "order.paid\n", "order..x"]
)
async def test_a_type_that_reads_otherwise_is_invalid(db: Database, events: Events, tenant: UUID, type: str) -> None:
    async with db.tenant_tx(tenant) as tx:
        with pytest.raises(Invalid, match="reads like"):
            await events.emit(tx, type, {})


@pytest.mark.parametrize("payload", [{"n": 2**64}, {"text": "\udfff"}, {"object": object()}])
async def test_a_payload_that_is_no_json_is_invalid(
    db: Database, events: Events, tenant: UUID, payload: dict[str, Any]
) -> None:
    async with db.tenant_tx(tenant) as tx:
        with pytest.raises(Invalid, match="stored as JSON"):
            await events.emit(tx, "order.paid", payload)


async def test_the_page_over_http_shows_the_tenants_own_newest_first(
    app: App, client: httpx.AsyncClient, other_client: httpx.AsyncClient, owner: Principal
) -> None:
    async with app.transaction(owner.tenant) as tx:
        for type in ("order.opened", "order.paid", "order.sent"):
            await app.events.emit(tx, type, {})
    shown = (await client.get("/api/events")).json()["items"]
    assert [item["type"] for item in shown if item["type"].startswith("order.")] == [
        "order.sent",
        "order.paid",
        "order.opened",
    ]
    only = (await client.get("/api/events", params={"type": "order.paid"})).json()["items"]
    assert [item["type"] for item in only] == ["order.paid"]
    assert "order." not in (await other_client.get("/api/events")).text
