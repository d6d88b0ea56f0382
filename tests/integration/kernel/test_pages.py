"""Walking pages while others insert: no row twice, and every row that was there at the start."""

from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from backstay.app import App
from backstay.kernel.principal import Principal


async def test_no_row_twice_and_none_missed_while_rows_come_in(
    app: App, client: httpx.AsyncClient, owner: Principal
) -> None:
    async def add(count: int) -> set[UUID]:
        async with app.transaction(owner.tenant) as tx:
            return {await app.events.emit(tx, "thing.happened", {"n": number}) for number in range(count)}

    before = await add(23)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        answer = await client.get("/api/events", params={"limit": 5} | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200
        assert len(answer.json()["items"]) <= 5
        seen += [item["id"] for item in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            break
        await add(3)
    assert len(seen) == len(set(seen))
    assert {str(id) for id in before} <= set(seen)
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 6, 10])
async def test_the_last_page_says_so(app: App, client: httpx.AsyncClient, owner: Principal, rows: int) -> None:
    async with app.transaction(owner.tenant) as tx:
        for _ in range(rows):
            await app.events.emit(tx, "page.counted", {})
    pages, cursor = 0, None
    total = 0
    while True:
        params = {"limit": 5, "type": "page.counted"} | ({"cursor": cursor} if cursor else {})
        answer = (await client.get("/api/events", params=params)).json()
        pages, total, cursor = pages + 1, total + len(answer["items"]), answer["next_cursor"]
        if cursor is None:
            break
    assert (total, pages) == (rows, max(1, -(-rows // 5)))


async def test_a_cursor_of_another_list_is_refused(app: App, client: httpx.AsyncClient, owner: Principal) -> None:
    for number in range(2):
        await app.auth.create_key(owner, f"robot {number}", "viewer")
    cursor = (await client.get("/api/keys?limit=1")).json()["next_cursor"]
    assert cursor
    assert (await client.get("/api/keys", params={"cursor": cursor})).status_code == 200
    answer = await client.get("/api/audit/entries", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


async def test_a_cursor_of_another_tenant_shows_nothing_of_it(
    app: App, client: httpx.AsyncClient, other_client: httpx.AsyncClient, owner: Principal
) -> None:
    async with app.transaction(owner.tenant) as tx:
        for _ in range(3):
            await app.events.emit(tx, "private.thing", {})
    cursor = (await client.get("/api/events?limit=1")).json()["next_cursor"]
    answer = await other_client.get("/api/events", params={"cursor": cursor})
    assert answer.status_code in (200, 422)
    assert "private.thing" not in answer.text


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cursor=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
async def test_a_made_up_cursor_is_invalid_and_never_our_failure(client: httpx.AsyncClient, cursor: str) -> None:
    answer = await client.get("/api/keys", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")
