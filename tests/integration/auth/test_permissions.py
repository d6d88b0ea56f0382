"""Every route against every role, nobody and the neighbour: read from the App, so that none is left out."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from backstay.app import App
from backstay.auth import ROLES
from backstay.kernel.http import PERMISSION, PUBLIC, RequestBoundary, routes
from backstay.kernel.principal import Principal
from backstay.workflows.machines import Definition, State, Transition
from conftest import Household

PLANTED = "planted-text-of-the-tenant"
MACHINE = Definition("thing", ["new", State("done", final=True)], [Transition("do", "new", "done")], "new")


def served(app: App) -> list[tuple[str, str, str]]:
    """Method, path and permission of every route."""
    return sorted(
        (method, route.path, (route.openapi_extra or {})[PERMISSION])
        for route in routes(app.api)
        for method in route.methods or ()
        if PERMISSION in (route.openapi_extra or {})
    )


def filled(path: str, id: object) -> str:
    return re.sub(r"{[^}]+}", str(id), path)


async def ask(client: httpx.AsyncClient, method: str, path: str, key: str | None) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    request = client.build_request(method, path, headers=headers, json=None if method == "GET" else {})
    return await client.send(request)


@pytest.fixture
async def http(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Without a key. Routes are asked over the API alone: none of them calls a provider."""
    transport = httpx.ASGITransport(app=RequestBoundary(app.api, 100_000), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://backstay") as made:
        yield made


async def test_every_permission_belongs_to_a_role_beside_the_owner(app: App) -> None:
    needed = {permission for _, _, permission in served(app)} - {PUBLIC}
    assert len(needed) > 5
    held = {
        permission
        for permission in needed
        for role, permissions in ROLES.items()
        if role != "owner" and Principal(uuid4(), uuid4(), role, permissions).may(permission)
    }
    assert needed - held == set(), "a permission that only the owner has is probably misspelt"


async def test_without_a_key_only_public_routes_answer(app: App, http: httpx.AsyncClient) -> None:
    for method, path, permission in served(app):
        status = (await ask(http, method, filled(path, uuid4()), None)).status_code
        if permission == PUBLIC:
            assert status < 400, (method, path, status)
        else:
            assert status == 401, (method, path, status)


async def test_a_key_that_is_not_known_is_as_good_as_none(app: App, http: httpx.AsyncClient) -> None:
    for method, path, permission in served(app):
        if permission != PUBLIC:
            status = (await ask(http, method, filled(path, uuid4()), "unknown-key-0123456789")).status_code
            assert status == 401, (method, path, status)


OPERATORS = ("/api/queues/", "/api/attached", "/api/collections/{name}/index")


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_a_role_may_do_what_it_has_and_nothing_else(
    app: App, http: httpx.AsyncClient, household: Household, role: str
) -> None:
    key = (await app.auth.create_key(household.owner, f"a {role}", role)).secret
    by = await app.auth.authenticate(key)
    for method, path, permission in served(app):
        answer = await ask(http, method, filled(path, uuid4()), key)
        if permission == PUBLIC or by.may(permission):
            if path.startswith(OPERATORS):  # what all tenants share is the operator's, whoever asks
                assert (answer.status_code, answer.json()["code"]) in ((403, "not_the_operator"), (422, "invalid")), (
                    path
                )
            else:
                assert answer.status_code not in (401, 403), (method, path, permission, answer.text)
            assert answer.status_code < 500, (method, path, answer.text)
        else:
            assert answer.status_code == 403, (method, path, permission, answer.status_code)
            assert answer.json()["code"] == "forbidden"
            assert permission in answer.json()["detail"]


async def test_a_key_with_scopes_may_only_that(app: App, http: httpx.AsyncClient, household: Household) -> None:
    key = (await app.auth.create_key(household.owner, "narrow", "owner", scopes=["events:read"])).secret
    for method, path, permission in served(app):
        status = (await ask(http, method, filled(path, uuid4()), key)).status_code
        assert (status not in (401, 403)) == (permission in (PUBLIC, "events:read")), (method, path, status)


class TestTheNeighbour:
    """Somebody with every permission in another tenant, who knows every id of ours."""

    @pytest.fixture
    async def ours(self, app: App, household: Household) -> set[str]:
        """Rows of ours in many rooms, by the ids and names that a neighbour might try."""
        by = household.owner
        async with app.transaction(by.tenant) as tx:
            await app.audit.record(tx, by, "thing.done", PLANTED, payload={"text": PLANTED}, subject="ada")
            await app.events.emit(tx, "thing.done", {"text": PLANTED})
            await app.streams.create(by, tx=tx)
            await app.machine(MACHINE).start(PLANTED, data={"text": PLANTED}, by=by, tx=tx)
        await app.auth.create_key(by, PLANTED, "viewer")
        return await self._ids(app, by.tenant)

    async def _rows(self, app: App, tenant: UUID) -> dict[str, list[dict[str, Any]]]:
        """Everything that the tenant has."""
        found: dict[str, list[dict[str, Any]]] = {}
        async with await psycopg.AsyncConnection.connect(app.db.url, row_factory=dict_row) as admin:
            tables = await admin.execute(
                "select distinct table_name from information_schema.columns"
                " where table_schema = 'backstay' and column_name = 'tenant_id' order by 1"
            )
            for table in await tables.fetchall():
                name = table["table_name"]
                rows = await admin.execute(
                    f"select to_jsonb(t) - 'last_used_at' as row from backstay.{name} t"  # type: ignore[arg-type]
                    " where tenant_id = %s order by 1",
                    [tenant],
                )
                found[name] = [row["row"] for row in await rows.fetchall()]
        return found

    async def _ids(self, app: App, tenant: UUID) -> set[str]:
        rows = await self._rows(app, tenant)
        ids = {
            value
            for table in rows.values()
            for row in table
            for column, value in row.items()
            if (column == "id" or column.endswith("_id") or column in ("name", "key")) and isinstance(value, str)
        }
        return ids - {str(tenant)}

    async def test_reads_and_changes_nothing_of_ours(
        self,
        app: App,
        http: httpx.AsyncClient,
        household: Household,
        other_household: Household,
        ours: set[str],
    ) -> None:
        assert len(ours) > 5
        before = await self._rows(app, household.tenant)
        for method, path, permission in served(app):
            if permission == PUBLIC:
                continue
            for id in sorted(ours) if "{" in path else [""]:
                async with asyncio.timeout(20):
                    answer = await ask(http, method, filled(path, id.replace(" ", "%20")), other_household.key)
                assert answer.status_code < 500, (method, path, answer.text)
                if "{" in path and id != PLANTED:
                    assert answer.status_code >= 400 or method == "PUT", (method, path, id, answer.text)
                assert PLANTED not in answer.text.replace(id, ""), (method, path)
        assert await self._rows(app, household.tenant) == before
