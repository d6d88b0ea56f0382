"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import FileView, ResultView

_queries = sql.load(__package__)


async def put(
    tx: Tx, tenant: UUID, job: UUID, name: str, result: Mapping[str, Any], file: FileView | None, now: datetime
) -> None:
    await _queries.put.run(
        tx,
        tenant_id=tenant,
        job_id=job,
        name=name,
        now=now,
        result=dict(result),
        file_name=file and file.name,
        media_type=file and file.media_type,
        bytes=file and file.bytes,
        permission=file and file.permission,
    )


async def find(tx: Tx, tenant: UUID, job: UUID) -> ResultView | None:
    return await _queries.find.maybe(tx, _result, tenant_id=tenant, job_id=job)


async def add_part(tx: Tx, tenant: UUID, job: UUID, seq: int, body: bytes) -> None:
    await _queries.add_part.run(tx, tenant_id=tenant, job_id=job, seq=seq, body=body)


async def part(tx: Tx, tenant: UUID, job: UUID, seq: int) -> bytes | None:
    body: bytes | None = await _queries.part.value(tx, tenant_id=tenant, job_id=job, seq=seq)
    return body


async def be_patient(tx: Tx) -> None:
    await _queries.be_patient.value(tx)


async def prune_results(tx: Tx, tenant: UUID, before: datetime, limit: int) -> int:
    return await _queries.prune_results.run(tx, tenant_id=tenant, before=before, limit=limit)


def _result(file_name: str | None, media_type: str, bytes: int, permission: str, **row: Any) -> ResultView:
    if file_name is None:
        return ResultView(**row)
    return ResultView(**row, file=FileView(name=file_name, media_type=media_type, bytes=bytes, permission=permission))
