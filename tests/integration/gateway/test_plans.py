"""Settlements find their calls by index, whatever the tables held when they were planned."""

from collections.abc import Iterator
from typing import Any

from backstay.kernel import sql
from backstay.kernel.db import Database

PARAMS = ("calls", "attempts", "windows", "expected", "thresholds", "count")


async def test_a_settlement_planned_on_empty_tables_looks_up_its_calls_one_by_one(db: Database) -> None:
    text = sql.load("backstay.gateway").settle.text.rstrip(";")
    for number, name in enumerate(PARAMS, 1):
        text = text.replace(f"%({name})s", f"${number}")
    async with db.system_tx(indexed=True) as tx:
        await tx.execute(f"prepare settling as {text}")
        found = await tx.execute("explain (format json) execute settling('[]', '[]', '[]', '[]', '{50}', 1)")
        row = await found.fetchone()
    assert row is not None
    read = {node["Relation Name"]: node.get("Index Cond", "") for node in _reads(row[0][0]["Plan"])}
    assert "(id = " in read["call"]
    assert "(call_id = " in read["hold"]


def _reads(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if plan["Node Type"].endswith("Scan") and "Relation Name" in plan:
        yield plan
    for part in plan.get("Plans", []):
        yield from _reads(part)
