"""`backstay builtin`: enqueue built-in jobs, and look at what they have left."""

import base64
import mimetypes
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import typer
from pydantic import ValidationError
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..events import Events
from ..jobs import Jobs
from ..jobs.schedules import Schedules
from ..kernel.cli import Base, Command, Json, out, print_json
from ..kernel.principal import Principal
from .calls import HttpJob
from .emails import EmailJob
from .report import NewReport
from .reports import ReportJob
from .results import Results
from .retention import RetentionJob

commands = typer.Typer(help="Built-in jobs, and what they have left.", no_args_is_help=True)
Id = Annotated[UUID, typer.Argument(help="The job's id.")]


@dataclass(frozen=True, slots=True)
class _Room:
    jobs: Jobs
    results: Results
    reports: ReportJob


@Command
async def _with_room(base: Base) -> AsyncIterator[tuple[_Room, Principal]]:
    audit, events = Audit(base.db, base.clock, base.vault), Events(base.db, base.clock)
    jobs, results = Jobs(base.db, base.clock, base.settings), Results(base.db, base.clock)
    HttpJob(jobs, base.settings, base.vault, audit, events, results)
    mails = EmailJob(jobs, base.clock, base.settings, base.vault, audit, events, results)
    reports = ReportJob(jobs, base.db, base.clock, base.vault, audit, events, results, mails)
    auth = Auth(base.db, base.clock, base.vault, audit)
    schedules = Schedules(base.db, base.clock, jobs, audit)
    RetentionJob(jobs, base.clock, base.settings, audit, auth, events, schedules, results)
    yield _Room(jobs, results, reports), await auth.operator()


@commands.command()
def http(
    url: Annotated[str, typer.Argument(help="Where to call.")],
    method: Annotated[str, typer.Option("--method", "-X", help="GET, POST, …")] = "POST",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="`Name: value`; may be repeated.")] = None,
    json: Annotated[str | None, typer.Option(help="A body, sent as JSON.")] = None,
    body: Annotated[str | None, typer.Option(help="A body, sent as it is.")] = None,
    expect: Annotated[list[int] | None, typer.Option(help="A status that means success; may be repeated.")] = None,
    redirects: Annotated[int, typer.Option(help="How many are followed.")] = 0,
) -> None:
    """Have a worker call an address, again where that may help."""
    try:
        content = None if json is None else orjson.loads(json)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"--json is not JSON: {error}") from None
    headers = dict(_header(line) for line in header or ())
    call = {"url": url, "method": method.upper(), "headers": headers, "json": content, "body": body}
    _enqueue("http", call | {"expect": expect or [], "redirects": redirects})


@commands.command()
def email(
    to: Annotated[list[str], typer.Argument(help="Who gets it.")],
    subject: Annotated[str, typer.Option(help="What it is about.")],
    text: Annotated[str | None, typer.Option(help="What it says.")] = None,
    html: Annotated[str | None, typer.Option(help="The same as HTML.")] = None,
    attach: Annotated[list[Path] | None, typer.Option(help="A file to bring along; may be repeated.")] = None,
) -> None:
    """Have a worker send a mail over BACKSTAY_SMTP_URL."""
    _enqueue(
        "email",
        {
            "to": to,
            "subject": subject,
            "text": text,
            "html": html,
            "attachments": [_file(path) for path in attach or ()],
        },
    )


@commands.command()
def report(
    kind: Annotated[Literal["spend", "audit"], typer.Argument(help="spend or audit.")] = "spend",
    by: Annotated[list[str] | None, typer.Option(help="day, feature, user or model; may be repeated.")] = None,
    days: Annotated[int, typer.Option(help="How many days back.")] = 30,
    format: Annotated[Literal["csv", "html"], typer.Option(help="csv or html.")] = "html",
    email: Annotated[list[str] | None, typer.Option(help="Who gets it by mail; may be repeated.")] = None,
) -> None:
    """Have a worker write a report. `backstay builtin file` then saves it."""
    asked = {"kind": kind, "by": by or ["feature", "model"], "days": days, "format": format, "email_to": email or []}
    try:
        wanted = NewReport.model_validate(asked)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(str(item["msg"]) for item in error.errors())) from None
    out.print(str(_with_room(lambda room, by: room.reports.enqueue(wanted, by=by))))


@commands.command()
def retention() -> None:
    """Have a worker remove what is to be kept no longer, of the default tenant."""
    _enqueue("retention", {})


@commands.command()
def result(id: Id, json: Json = False) -> None:
    """Show what a built-in job has left."""
    found = _with_room(lambda room, by: room.results.get(by, id))
    if json:
        print_json(found)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in found.model_dump(mode="json").items():
        if value is not None:
            table.add_row(name, value if isinstance(value, str) else orjson.dumps(value).decode())
    out.print(table)


@commands.command()
def file(
    id: Id,
    to: Annotated[Path | None, typer.Option(help="Where to; its own name when missing.", dir_okay=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file when it exists.")] = False,
) -> None:
    """Write the file that a job has made."""

    async def save(room: _Room, by: Principal) -> tuple[Path, int]:
        found, parts = await room.results.file(by, id)
        path = to or Path(found.name)
        with path.open("wb" if force else "xb") as target:
            async for part in parts:
                target.write(part)
        return path, found.bytes

    try:
        path, size = _with_room(save)
    except FileExistsError as error:
        raise typer.BadParameter(f"{error.filename} exists; choose another name or add --force") from None
    out.print(f"{path}: {size} bytes")


def _enqueue(name: str, input: dict[str, Any]) -> None:
    job = _with_room(lambda room, by: room.jobs.enqueue_raw(name, input, by=by))
    out.print(f"{job.id}")


def _file(path: Path) -> dict[str, str]:
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from None
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return {"name": path.name, "media_type": kind, "content": content}


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise typer.BadParameter(f"--header {name!r} is written `Name: value`")
    return name.strip(), value.strip()
