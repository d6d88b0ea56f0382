"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from pydantic import ValidationError

from ...kernel import sql
from ...kernel.db import Tx
from .models import Account, SealedSecret, StoredRoute
from .price import NewPrice, Price, Rates
from .route import Route
from .tags import RequiredTags, TagName

DatabaseError = psycopg.Error
BadValue = psycopg.DataError  # a value that the database cannot store, such as a text with NUL
_queries = sql.load(__package__)


async def bump(tx: Tx, tenant: UUID, now: datetime) -> int:
    """The new revision of the tenant's catalogue."""
    revision: int = await _queries.bump.value(tx, tenant_id=tenant, now=now)
    return revision


async def revisions(tx: Tx, tenants: Sequence[UUID]) -> dict[UUID, int]:
    return dict(await _queries.revisions.rows(tx, tenant_ids=list(tenants)))


async def routes(tx: Tx, tenant: UUID, after: str | None, limit: int) -> list[StoredRoute]:
    return await _queries.routes.all(tx, _stored, tenant_id=tenant, after=after, limit=limit)


async def route(tx: Tx, tenant: UUID, name: str) -> StoredRoute | None:
    return await _queries.route.maybe(tx, _stored, tenant_id=tenant, name=name)


async def put_route(tx: Tx, tenant: UUID, route: Route, now: datetime) -> StoredRoute:
    return await _queries.put_route.one(
        tx, _stored, tenant_id=tenant, name=route.name, definition=dict(route.definition()), now=now
    )


async def delete_route(tx: Tx, tenant: UUID, name: str) -> None:
    await _queries.delete_route.run(tx, tenant_id=tenant, name=name)


async def count_routes(tx: Tx, tenant: UUID) -> int:
    return int(await _queries.count_routes.value(tx, tenant_id=tenant))


async def accounts(tx: Tx, tenant: UUID, after: str | None, limit: int) -> list[Account]:
    return await _queries.accounts.all(tx, Account, tenant_id=tenant, after=after, limit=limit)


async def account(tx: Tx, tenant: UUID, name: str) -> Account | None:
    return await _queries.account.maybe(tx, Account, tenant_id=tenant, name=name)


async def put_account(
    tx: Tx, tenant: UUID, name: str, kind: str, base_url: str | None, options: Mapping[str, Any], now: datetime
) -> Account:
    return await _queries.put_account.one(
        tx, Account, tenant_id=tenant, name=name, kind=kind, base_url=base_url, options=dict(options), now=now
    )


async def delete_account(tx: Tx, tenant: UUID, name: str) -> None:
    await _queries.delete_account.run(tx, tenant_id=tenant, name=name)


async def count_accounts(tx: Tx, tenant: UUID) -> int:
    return int(await _queries.count_accounts.value(tx, tenant_id=tenant))


async def secrets(tx: Tx, tenant: UUID, accounts: Sequence[str] | None) -> list[SealedSecret]:
    """`accounts`: None for those of all accounts."""
    wanted = None if accounts is None else list(accounts)
    return await _queries.secrets.all(tx, SealedSecret, tenant_id=tenant, accounts=wanted)


async def add_secret(tx: Tx, tenant: UUID, account: str, id: UUID, sealed: bytes, last4: str, now: datetime) -> None:
    await _queries.add_secret.run(tx, tenant_id=tenant, account=account, id=id, sealed=sealed, last4=last4, now=now)


async def end_secrets(tx: Tx, tenant: UUID, account: str, at: datetime) -> None:
    await _queries.end_secrets.run(tx, tenant_id=tenant, account=account, at=at)


async def drop_ended(tx: Tx, tenant: UUID, account: str, now: datetime) -> None:
    await _queries.drop_ended.run(tx, tenant_id=tenant, account=account, now=now)


async def delete_secret(tx: Tx, tenant: UUID, account: str, id: UUID) -> bool:
    return await _queries.delete_secret.run(tx, tenant_id=tenant, account=account, id=id) == 1


async def required_tags(tx: Tx, tenant: UUID) -> RequiredTags:
    found = await _queries.required_tags.rows(tx, tenant_id=tenant)
    return RequiredTags(frozenset(map(TagName, found[0][0]))) if found else RequiredTags()


async def require_tags(tx: Tx, tenant: UUID, wanted: RequiredTags, now: datetime) -> None:
    await _queries.require_tags.run(tx, tenant_id=tenant, tags=wanted.told(), now=now)


async def prices(tx: Tx, tenant: UUID, after: UUID | None, limit: int) -> list[Price]:
    return await _queries.prices.all(tx, _price, tenant_id=tenant, after=after, limit=limit)


async def price(tx: Tx, tenant: UUID, id: UUID) -> Price | None:
    return await _queries.price.maybe(tx, _price, tenant_id=tenant, id=id)


async def put_price(tx: Tx, tenant: UUID, id: UUID, new: NewPrice, starts_at: datetime, now: datetime) -> Price | None:
    """None when another price has the same pattern and start."""
    values = new.model_dump() | {"starts_at": starts_at}
    return await _queries.put_price.maybe(tx, _price, tenant_id=tenant, id=id, now=now, **values)


async def delete_price(tx: Tx, tenant: UUID, id: UUID) -> None:
    await _queries.delete_price.run(tx, tenant_id=tenant, id=id)


async def count_prices(tx: Tx, tenant: UUID) -> int:
    return int(await _queries.count_prices.value(tx, tenant_id=tenant))


def _stored(
    name: str, definition: Mapping[str, Any], revision: int, created_at: datetime, updated_at: datetime
) -> StoredRoute:
    try:
        route = Route.model_validate({**definition, "name": name})
    except ValidationError:
        route = None
    return StoredRoute(name, route, revision, created_at, updated_at)


def _price(
    id: UUID,
    pattern: str,
    starts_at: datetime,
    ends_at: datetime | None,
    created_at: datetime,
    **rates: Any,
) -> Price:
    return Price(id, pattern, Rates.model_construct(None, **rates), starts_at, ends_at, created_at)
