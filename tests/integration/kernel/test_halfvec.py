"""Vectors in the binary form, as Postgres reads them back."""

import math

import pytest

from backstay.kernel.db import Database
from backstay.kernel.halfvec import Halfvec, Halfvecs


def packed(vector: list[float]) -> Halfvec:
    found = Halfvec.of(vector)
    assert found is not None
    return found


async def test_a_vector_is_to_postgres_what_its_text_is(db: Database) -> None:
    given = [0.1, -2.5, 1 / 3, 1e-7, 65_504.0, -0.0, 1]
    ways = [packed(given), str(packed(given)), str(given)]
    async with db.system_tx() as tx:
        rows = await tx.execute(
            "select %s::public.halfvec::text, %s::public.halfvec::text, %s::public.halfvec::text", ways
        )
        assert len(set(await rows.fetchone() or ())) == 1


async def test_an_array_of_vectors_keeps_their_order(db: Database) -> None:
    given = [packed([float(n), 1.0]) for n in range(3)]
    async with db.system_tx() as tx:
        oid = (await (await tx.execute("select 'public.halfvec'::regtype::oid")).fetchone() or (0,))[0]
        rows = await tx.execute("select e::text from unnest(%s::public.halfvec[]) as g (e)", [Halfvecs(oid, given)])
        assert [text for (text,) in await rows.fetchall()] == ["[0,1]", "[1,1]", "[2,1]"]


@pytest.mark.parametrize(
    "vector", [[0.0, 0.0], [1e-9, 0.0], [math.nan, 1.0], [math.inf, 1.0], [math.inf, -math.inf], [70_000.0, 1.0]]
)
def test_what_nothing_can_be_near_to_is_no_vector(vector: list[float]) -> None:
    assert Halfvec.of(vector) is None
