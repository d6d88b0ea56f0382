"""`Idempotency-Key`: the effect happens once, the answer is given again, and a crash leaves neither."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from pydantic import BaseModel

from backstay.app import App
from backstay.events import Events
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.db import Database, Tx
from backstay.kernel.http import Caller, Router
from backstay.kernel.idempotency import prune
from backstay.kernel.settings import Settings
from conftest import Household

PLANTED = "planted-secret-answer"


class Thing(BaseModel):
    name: str


class Gate:
    """Holds a request inside its handler until the test lets it go on, or fails it there."""

    def __init__(self) -> None:
        self.entered, self.go_on, self.fail = asyncio.Event(), asyncio.Event(), False
        self.go_on.set()
        self.calls = 0


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def things(app: App, client: httpx.AsyncClient, gate: Gate) -> httpx.AsyncClient:
    """A client of the App with a route whose effect is one event."""
    router, events = Router("/api/things", tag="things"), Events(app.db, SystemClock())

    @router.post("", permission="things:write", status=201)
    async def create(body: Thing, by: Caller, tx: Tx) -> Thing:
        gate.calls += 1
        await events.emit(tx, "thing.created", {"name": body.name})
        gate.entered.set()
        await gate.go_on.wait()
        if gate.fail:
            raise RuntimeError("the process dies here")
        return Thing(name=f"{body.name} {PLANTED} {gate.calls}")

    @router.delete("/{id}", permission="things:write", status=204)
    async def remove(id: UUID, by: Caller, tx: Tx) -> None:
        gate.calls += 1

    app.api.include_router(router.routes)
    return client


async def effects(db: Database) -> int:
    async with db.system_tx() as tx:
        row = await (await tx.execute("select count(*) from backstay.outbox where type = 'thing.created'")).fetchone()
    assert row is not None
    return int(row[0])


async def post(client: httpx.AsyncClient, key: str | None, name: str = "a", **options: Any) -> httpx.Response:
    headers = {"idempotency-key": key} if key is not None else {}
    return await client.post("/api/things", json={"name": name}, headers=headers, **options)


async def test_the_same_request_again_gets_the_same_answer_and_has_no_second_effect(
    things: httpx.AsyncClient, db: Database, gate: Gate
) -> None:
    first, second = await post(things, "k"), await post(things, "k")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert (gate.calls, await effects(db)) == (1, 1)


async def test_without_a_key_every_request_counts(things: httpx.AsyncClient, db: Database) -> None:
    await post(things, None)
    await post(things, None)
    assert await effects(db) == 2


async def test_an_answer_without_a_body_is_given_again(things: httpx.AsyncClient, gate: Gate) -> None:
    path = f"/api/things/{UUID(int=1)}"
    first = await things.delete(path, headers={"idempotency-key": "k"})
    second = await things.delete(path, headers={"idempotency-key": "k"})
    assert (first.status_code, first.content, second.status_code, second.content) == (204, b"", 204, b"")
    assert gate.calls == 1


@pytest.mark.parametrize("other", ["body", "path", "query", "method"])
async def test_the_same_key_for_another_request_is_refused(things: httpx.AsyncClient, db: Database, other: str) -> None:
    await post(things, "k")
    headers = {"idempotency-key": "k"}
    if other == "body":
        answer = await post(things, "k", "b")
    elif other == "query":
        answer = await post(things, "k", params={"x": "1"})
    elif other == "path":
        answer = await things.post("/api/keys", json={"name": "a"}, headers=headers)
    else:
        answer = await things.delete(f"/api/things/{UUID(int=1)}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await effects(db) == 1


async def test_while_one_is_in_flight_the_other_is_told_to_wait(
    things: httpx.AsyncClient, db: Database, gate: Gate
) -> None:
    gate.go_on.clear()
    first = asyncio.create_task(post(things, "k"))
    await gate.entered.wait()
    second = await post(things, "k")
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
    gate.go_on.set()
    assert (await first).status_code == 201
    assert (await post(things, "k")).content == (await first).content
    assert await effects(db) == 1


async def test_of_many_at_once_one_has_the_effect(things: httpx.AsyncClient, db: Database) -> None:
    answers = await asyncio.gather(*(post(things, "k") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert await effects(db) == 1


async def test_a_failure_leaves_nothing_and_the_key_stays_free(
    things: httpx.AsyncClient, db: Database, gate: Gate
) -> None:
    gate.fail = True
    assert (await post(things, "k")).status_code == 500
    assert await effects(db) == 0
    gate.fail = False
    assert (await post(things, "k")).status_code == 201
    assert await effects(db) == 1


async def test_a_process_that_dies_in_the_middle_leaves_no_key_in_flight(
    things: httpx.AsyncClient, db: Database, gate: Gate, database_url: str
) -> None:
    gate.go_on.clear()
    first = asyncio.create_task(post(things, "k"))
    await gate.entered.wait()
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        await admin.execute(  # what the server sees of kill -9: the session is gone
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database()"
            " and application_name = 'backstay/backstay_app' and state = 'idle in transaction'"
        )
    gate.go_on.set()
    assert (await first).status_code == 503
    assert await effects(db) == 0
    assert (await post(things, "k")).status_code == 201
    assert await effects(db) == 1


async def test_a_client_that_leaves_frees_the_key(things: httpx.AsyncClient, db: Database, gate: Gate) -> None:
    gate.go_on.clear()
    first = asyncio.create_task(post(things, "k"))
    await gate.entered.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.go_on.set()
    assert await effects(db) == 0
    assert (await post(things, "k")).status_code == 201


async def test_the_answer_is_sealed_in_the_table(things: httpx.AsyncClient, database_url: str) -> None:
    answer = await post(things, "k")
    assert PLANTED in answer.text
    async with await psycopg.AsyncConnection.connect(database_url) as admin:
        rows = await (await admin.execute("select t::text, answer from backstay.idempotency t")).fetchall()
    assert len(rows) == 1
    assert PLANTED not in rows[0][0]
    assert PLANTED.encode() not in rows[0][1]


async def test_a_key_of_our_own_api_is_not_stored_in_clear(client: httpx.AsyncClient, database_url: str) -> None:
    answer = await client.post("/api/keys", json={"name": "ci"}, headers={"idempotency-key": "k"})
    again = await client.post("/api/keys", json={"name": "ci"}, headers={"idempotency-key": "k"})
    secret = answer.json()["secret"]
    assert again.json()["secret"] == secret
    async with await psycopg.AsyncConnection.connect(database_url) as admin:
        rows = await (await admin.execute("select answer from backstay.idempotency")).fetchall()
    assert all(secret.encode() not in sealed for (sealed,) in rows)


async def test_another_principal_of_the_tenant_does_not_get_the_answer(
    app: App, things: httpx.AsyncClient, household: Household, db: Database
) -> None:
    first = await post(things, "k")
    colleague = await app.auth.create_owner(household.tenant, "colleague")
    answer = await post(things, "k", auth=None)
    assert answer.content == first.content
    request = things.build_request(
        "POST",
        "/api/things",
        json={"name": "a"},
        headers={"idempotency-key": "k", "authorization": f"Bearer {colleague.secret}"},
    )
    theirs = await things.send(request)
    assert theirs.status_code == 201
    assert theirs.content != first.content
    assert await effects(db) == 2


async def test_another_tenant_does_not_get_the_answer(
    things: httpx.AsyncClient, other_client: httpx.AsyncClient, db: Database
) -> None:
    first = await post(things, "k")
    theirs = await post(other_client, "k")
    assert theirs.status_code == 201
    assert theirs.content != first.content
    assert await effects(db) == 2


async def test_a_caller_who_lost_the_permission_does_not_get_the_answer(
    app: App, things: httpx.AsyncClient, household: Household
) -> None:
    await post(things, "k")
    viewer = await app.auth.create_key(household.owner, "viewer", "viewer")
    request = things.build_request(
        "POST",
        "/api/things",
        json={"name": "a"},
        headers={"idempotency-key": "k", "authorization": f"Bearer {viewer.secret}"},
    )
    assert (await things.send(request)).status_code == 403


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tinside", "\x7f"])
async def test_a_key_that_is_none_is_refused(things: httpx.AsyncClient, db: Database, key: str) -> None:
    assert (await post(things, key)).status_code == 400
    assert await effects(db) == 0


class TestExpiry:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def app(self, settings: Settings, clock: ManualClock) -> AsyncIterator[App]:
        async with App(settings, clock=clock) as running:
            yield running

    async def test_after_24_hours_the_key_is_new(
        self, things: httpx.AsyncClient, clock: ManualClock, db: Database
    ) -> None:
        first = await post(things, "k")
        clock.advance(timedelta(hours=23, minutes=59))
        assert (await post(things, "k")).content == first.content
        clock.advance(timedelta(minutes=2))
        later = await post(things, "k", "b")
        assert later.status_code == 201
        assert await effects(db) == 2
        assert (await post(things, "k", "b")).content == later.content

    async def test_expired_answers_are_pruned_and_others_kept(
        self, things: httpx.AsyncClient, clock: ManualClock, db: Database
    ) -> None:
        await post(things, "old")
        clock.advance(timedelta(hours=25))
        fresh = await post(things, "new")
        async with db.system_tx() as tx:
            assert await prune(tx, clock.now()) == 1
        assert (await post(things, "new")).content == fresh.content
