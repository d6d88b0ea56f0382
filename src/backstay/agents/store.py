"""Rows in, models out: one function per query, no decisions."""

from dataclasses import asdict
from uuid import UUID

import orjson

from ..kernel import sql
from ..kernel.db import Tx
from .models import Answer

_queries = sql.load(__package__)


async def add(tx: Tx, tenant: UUID, answer: Answer) -> None:
    row = asdict(answer) | {"sources": orjson.dumps(answer.sources).decode()}
    await _queries.add.run(tx, tenant=tenant, **row)


async def get(tx: Tx, tenant: UUID, run: UUID) -> Answer | None:
    return await _queries.get.maybe(tx, Answer, tenant=tenant, run=run)
