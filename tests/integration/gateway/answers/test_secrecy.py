"""What is kept for one tenant can neither be found nor read for another, nor by who reads the database."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg
import pytest

from answering import ALICE, BOB, HOUR, NEAR, DevHash, find, keep, question, rows
from backstay.gateway.answers import Answers
from backstay.kernel.cache import Cache, Store
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database


class TestTenants:
    async def test_the_same_request_of_two_tenants_never_meets(self, answers: Answers, dev_hash: DevHash) -> None:
        options: dict[str, Any] = {"policy": NEAR, "embedder": dev_hash.embedder}
        await keep(answers, question(), b"hers", tenant=ALICE, **options)
        assert await find(answers, question(), tenant=BOB, **options) is None
        assert await find(answers, question("how do I RESET my planted-password"), tenant=BOB, **options) is None
        await keep(answers, question(), b"his", tenant=BOB, **options)
        for tenant, body in ((ALICE, b"hers"), (BOB, b"his")):
            hit = await find(answers, question(), tenant=tenant, **options)
            assert hit is not None
            assert hit.body == body

    async def test_two_tenants_who_ask_at_once_do_not_share(self, answers: Answers) -> None:
        async with answers.flight(ALICE, question(), HOUR) as hers, answers.flight(BOB, question(), HOUR) as his:
            async with asyncio.timeout(10):
                assert await hers.find() is None
                assert await his.find() is None  # it does not wait for hers

    async def test_a_forged_key_opens_nothing(self, answers: Answers, cache: Cache, db: Database) -> None:
        """Bob knows Alice's key and her sealed answer, and puts them wherever he can write."""
        await keep(answers, question())
        place = await self._place(answers, ALICE)
        sealed = await cache.get(ALICE, place)
        assert sealed is not None
        assert await cache.get(BOB, place) is None
        for forged in (place, await self._place(answers, BOB)):
            await cache.set(BOB, forged, sealed, 3600)
        assert await find(answers, question(), tenant=BOB) is None

    async def test_a_forged_row_opens_nothing(self, answers: Answers, dev_hash: DevHash, database_url: str) -> None:
        """The same for the table, by somebody who may write all of it."""
        options: dict[str, Any] = {"policy": NEAR, "embedder": dev_hash.embedder}
        await keep(answers, question("RESET password"), b"hers", tenant=ALICE, **options)
        await keep(answers, question("RESET password"), b"his", tenant=BOB, **options)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            await admin.execute(
                "insert into backstay.cached_answer select %(bob)s, rest, key, e, answer, kept_at, expires_at"
                " from backstay.cached_answer where tenant_id = %(alice)s",
                {"alice": ALICE, "bob": BOB},
            )
            hit = await find(answers, question("reset password"), tenant=BOB, **options)
            assert hit is not None
            assert hit.body == b"his"
            await admin.execute(
                "update backstay.cached_answer c set answer = a.answer from backstay.cached_answer a"
                " where a.tenant_id = %(alice)s and c.tenant_id = %(bob)s",
                {"alice": ALICE, "bob": BOB},
            )
        assert await find(answers, question("reset password"), tenant=BOB, **options) is None

    async def test_the_digests_of_two_tenants_have_nothing_in_common(
        self, answers: Answers, dev_hash: DevHash, db: Database
    ) -> None:
        for tenant in (ALICE, BOB):
            await keep(answers, question(), tenant=tenant, policy=NEAR, embedder=dev_hash.embedder)
        found = await rows(db, "select rest, key from backstay.cached_answer")
        assert len({digest for row in found for digest in row}) == 4

    async def _place(self, answers: Answers, tenant: UUID) -> str:
        shelf = answers.flight(tenant, question(), HOUR)._shelf
        assert shelf is not None
        return shelf._place


class TestSecrecy:
    async def test_nothing_of_request_or_answer_is_readable_in_the_tables(
        self, on_postgres: Answers, dev_hash: DevHash, db: Database, database_url: str
    ) -> None:
        await keep(on_postgres, question(), policy=NEAR, embedder=dev_hash.embedder)
        async with await psycopg.AsyncConnection.connect(database_url) as admin:
            stored = []
            for table in ("cache", "cached_answer"):
                found = await (await admin.execute(f"select t::text, t.* from backstay.{table} t")).fetchall()
                assert len(found) == 1
                stored += [value for row in found for value in row]
        assert_tells_nothing(stored)

    async def test_nothing_of_request_or_answer_is_readable_in_redis(
        self, db: Database, manual_clock: ManualClock, vault: Vault, redis_store: Store, redis_admin: Any
    ) -> None:
        answers = Answers(db, manual_clock, vault, Cache(redis_store, manual_clock))
        await keep(answers, question())
        names = await redis_admin.keys("*")
        assert len(names) == 1
        assert_tells_nothing([*names, *(await redis_admin.mget(names))])

    @pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
    async def test_an_altered_answer_is_a_miss_and_makes_room_for_the_next(
        self, answers: Answers, cache: Cache, how: str
    ) -> None:
        await keep(answers, question())
        shelf = answers.flight(ALICE, question(), HOUR)._shelf
        assert shelf is not None
        sealed = await cache.get(ALICE, shelf._place)
        assert sealed is not None
        await cache.set(ALICE, shelf._place, altered(sealed, how), 3600)
        assert await find(answers, question()) is None
        assert await keep(answers, question(), b"new")
        hit = await find(answers, question())
        assert hit is not None
        assert hit.body == b"new"

    @pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
    async def test_an_altered_answer_of_a_near_request_is_a_miss_too(
        self, answers: Answers, dev_hash: DevHash, database_url: str, how: str
    ) -> None:
        options: dict[str, Any] = {"policy": NEAR, "embedder": dev_hash.embedder}
        await keep(answers, question("RESET password"), **options)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            row = await (await admin.execute("select answer from backstay.cached_answer")).fetchone()
            assert row is not None
            await admin.execute("update backstay.cached_answer set answer = %s", [altered(row[0], how)])
        assert await find(answers, question("reset password"), **options) is None
        assert await keep(answers, question("reset password"), b"new", **options)

    async def test_under_another_master_key_everything_is_a_miss(
        self, answers: Answers, db: Database, manual_clock: ManualClock, cache: Cache
    ) -> None:
        await keep(answers, question())
        others = Answers(db, manual_clock, Vault(b"another master key of 32 bytes !"), cache)
        assert await find(others, question()) is None


def assert_tells_nothing(stored: Sequence[Any]) -> None:
    whole = question().whole()
    secrets = [b"planted", b"Be brief", b"echo", sha256(whole).digest(), sha256(whole).hexdigest().encode()]
    for value in stored:
        held = value if isinstance(value, bytes) else str(value).encode()
        assert not [secret for secret in secrets if secret in held]


def altered(sealed: bytes, how: str) -> bytes:
    if how == "flipped":
        return sealed[:-1] + bytes([sealed[-1] ^ 1])
    return sealed[: len(sealed) // 2] if how == "cut" else b""
