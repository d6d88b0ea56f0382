"""The job `report`: writes what was spent, or what the audit holds, into a file, and has it mailed."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from ..audit import Audit
from ..events import Events
from ..gateway.spending import spend_lines
from ..jobs import Discard, JobContext, Jobs
from ..kernel import json
from ..kernel.clock import Clock
from ..kernel.crypto import Vault
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from . import store
from .emails import EmailJob
from .mail import MOST_BYTES, Email
from .models import COMMON, FileView
from .page import Cell, Column, Csv, Form, Html
from .report import NewReport, Report, Span
from .results import Results

_PIECE = 256 * 1024  # characters of a file that are in memory
_SPENT = [Column("calls", True, True), Column("input tokens", True, True), Column("output tokens", True, True)]
_COST = Column("cost (USD)", True, True)
_ENTRY = ["at", "actor", "action", "resource", "outcome", "run", "call", "metadata", "id"]
Rows = AsyncGenerator[list[Cell], None]


class ReportJob:
    """`app.reports`. Enqueues reports, and makes them when a worker runs the job."""

    def __init__(
        self,
        jobs: Jobs,
        db: Database,
        clock: Clock,
        vault: Vault,
        audit: Audit,
        events: Events,
        results: Results,
        email: EmailJob,
    ) -> None:
        self._db, self._clock, self._vault = db, clock, vault
        self._audit, self._events, self._results, self._email = audit, events, results, email
        self.job = jobs.handler("report", self._run, Report, timeout=timedelta(hours=2))

    def permitted(self, report: NewReport, by: Principal) -> Report:
        """The report with the permit that its kind takes; it may also stand in a schedule.

        Raises:
            Forbidden: `by` may not read what it is about (403).
        """
        by.require(report.permission)
        asked = Report(**report.model_dump(exclude={"permit"}), permit="")
        return asked.model_copy(update={"permit": self._vault.sign(asked.permit_text(by.tenant)).hex()})

    async def enqueue(
        self,
        report: NewReport,
        *,
        by: Principal,
        key: str | None = None,
        at: datetime | None = None,
        tx: Tx | None = None,
    ) -> UUID:
        """Has `report` made once the transaction commits. Returns the job's id; its file is at `app.results.file`.

        Raises:
            Forbidden: `by` may not read what it is about (403).
        """
        return await self.job.enqueue(self.permitted(report, by), tenant=by.tenant, key=key, at=at, tx=tx)

    async def _run(self, context: JobContext, report: Report) -> None:
        if await self._results.stands(context):
            return
        if not self._may(context, report):
            raise Discard("its permit was made for another report; ask for this one at POST /api/reports")
        span = report.span(self._clock.now())
        async with self._db.tenant_tx(context.tenant) as tx:
            await store.be_patient(tx)
            file, count = await self._written(tx, context, report, span)
            told = {"job_id": str(context.job), "kind": report.kind, "rows": count, "bytes": file.bytes}
            await context.hold(tx)  # from here on only while the job is ours
            await self._results.keep(tx, context, told | {"since": span.since, "until": span.until}, file)
            if report.email_to:
                await self._mail(tx, context, report, file)
            await self._audit.record(tx, context.by, "report.make", f"job:{context.job}", metadata=told)
            await self._events.emit(tx, "report.made", told)

    def _may(self, context: JobContext, report: Report) -> bool:
        if report.kind == "spend":
            return True
        try:
            return self._vault.signed(report.permit_text(context.tenant), bytes.fromhex(report.permit or ""))
        except ValueError:
            return False

    async def _written(self, tx: Tx, context: JobContext, report: Report, span: Span) -> tuple[FileView, int]:
        """Writes the file, piece by piece. Returns what it is, and how many rows it has."""
        columns, rows = self._content(tx, context.tenant, report, span)
        form = _form(report, columns, span)
        totals: list[Cell] = [0 if column.total else None for column in columns]
        count, seq, size, piece = 0, 0, 0, [form.head()]
        async with aclosing(rows):
            async for cells in rows:
                count += 1
                totals = [_sum(total, cell) for total, cell in zip(totals, cells, strict=True)]
                piece.append(form.row(cells))
                if count % 500 == 0 and sum(map(len, piece)) >= _PIECE:
                    size += await _put(tx, context, seq, piece)
                    seq, piece = seq + 1, []
        piece.append(form.foot(totals))
        size += await _put(tx, context, seq, piece)
        name = f"{report.kind}-{span.since:%Y-%m-%d}-to-{span.until:%Y-%m-%d}.{report.format}"
        permission = COMMON if report.kind == "spend" else report.permission
        return FileView(name=name, media_type=form.media_type, bytes=size, permission=permission), count

    def _content(self, tx: Tx, tenant: UUID, report: Report, span: Span) -> tuple[list[Column], Rows]:
        if report.kind == "spend":
            columns = [*(Column(part, whole=part == "day") for part in report.by), *_SPENT, _COST]
            return columns, _spend(tx, tenant, report, span)
        return [Column(name, whole=name == "at") for name in _ENTRY], self._entries(tx, tenant, span)

    async def _entries(self, tx: Tx, tenant: UUID, span: Span) -> Rows:
        async with aclosing(self._audit.span(tx, tenant, *span)) as entries:
            async for one in entries:
                run, call = (None if id is None else str(id) for id in (one.run_id, one.call_id))
                metadata = json.dumps(one.metadata).decode() if one.metadata else None
                at = one.at.isoformat(timespec="milliseconds")
                yield [at, one.actor, one.action, one.resource, one.outcome, run, call, metadata, str(one.id)]

    async def _mail(self, tx: Tx, context: JobContext, report: Report, file: FileView) -> None:
        where = f"GET /api/jobs/{context.job}/file"
        fits = file.bytes <= MOST_BYTES
        mail = Email(
            to=report.email_to,
            subject=f"Report: {file.name}",
            text=f"The report {file.name} is attached." if fits else f"The report is too large for a mail: {where}",
            attachments=[self._email.permit(context.tenant, context.job, report.email_to)] if fits else [],
        )
        await self._email.enqueue(mail, tenant=context.tenant, tx=tx)


async def _spend(tx: Tx, tenant: UUID, report: Report, span: Span) -> Rows:
    async with aclosing(spend_lines(tx, tenant, report.by, *span)) as lines:
        async for line in lines:
            names: list[Cell] = [getattr(line, part) for part in report.by]
            yield [*names, line.calls, line.input_tokens, line.output_tokens, line.cost]


async def _put(tx: Tx, context: JobContext, seq: int, piece: Sequence[str]) -> int:
    body = "".join(piece).encode("utf-8", "replace")
    await store.add_part(tx, context.tenant, context.job, seq, body)
    return len(body)


def _form(report: Report, columns: Sequence[Column], span: Span) -> Form:
    if report.format == "csv":
        return Csv(columns)
    title = "What was spent" if report.kind == "spend" else "Audit"
    return Html(columns, title, f"{span.since:%d %B %Y, %H:%M} to {span.until:%d %B %Y, %H:%M} UTC")


def _sum(total: Cell, cell: Cell) -> Cell:
    if isinstance(total, int | Decimal) and isinstance(cell, int | Decimal):
        return total + cell
    return total
