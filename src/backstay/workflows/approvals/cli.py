"""`backstay approvals`: the inbox of what runs ask people for."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from rich.markup import escape

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...jobs import Jobs
from ...kernel.cli import Base, Command, Json, by_id, local, out, print_json, read_json
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from ..wakes import Wakes
from .models import ApprovalState, ApprovalView
from .service import Approvals

commands = typer.Typer(help="What runs ask people for.", no_args_is_help=True)
Id = Annotated[UUID, typer.Argument(help="The approval's id.")]


@Command
async def _with_approvals(base: Base) -> AsyncIterator[tuple[Approvals, Principal]]:
    """The inbox of the default tenant."""
    audit, jobs = Audit(base.db, base.clock, base.vault), Jobs(base.db, base.clock, base.settings)
    by = await Auth(base.db, base.clock, base.vault, audit).operator()
    yield Approvals(base.db, base.clock, Wakes(jobs, base.clock), audit, Events(base.db, base.clock)), by


@commands.command("list")
def list_(
    state: Annotated[ApprovalState, typer.Option(help="Only this state.")] = ApprovalState.PENDING,
    run: Annotated[UUID | None, typer.Option(help="Only what this run asks for.")] = None,
    role: Annotated[str | None, typer.Option(help="Only what this role is to decide.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    json: Json = False,
) -> None:
    """List approvals, newest first: the pending ones unless --state says otherwise."""
    found = _with_approvals(lambda inbox, by: inbox.list(by, limit=limit, state=state, run=run, role=role))
    if json:
        print_json(found)
        return
    table = by_id("title", "workflow", "request", "for", "asked", "until")
    for item in found:
        wanted = item.role or item.permission or "anyone"
        said = map(escape, (item.title, item.workflow, _short(item.request), wanted))
        table.add_row(str(item.id), *said, local(item.asked_at), local(item.due_at) if item.due_at else "")
    out.print(table if found else f"nothing is {state}")


@commands.command()
def show(id: Id, json: Json = False) -> None:
    """Show one approval."""
    found = _with_approvals(lambda inbox, by: inbox.get(by, id))
    if json:
        print_json(found)
        return
    about = {
        "approval": str(found.id),
        "title": found.title,
        "run": f"{found.run}, step {found.seq} of {found.workflow}",
        "state": found.state,
        "request": orjson.dumps(found.request).decode(),
        "about": ", ".join(f"{name} {value}" for name, value in found.about.items()),
        "role": found.role,
        "permission": found.permission,
        "asked": local(found.asked_at),
        "until": f"{local(found.due_at)}, then {found.fallback}" if found.due_at else None,
        "decided": f"{local(found.decided_at)} by {found.decider or 'nobody'}" if found.decided_at else None,
        "reason": found.reason,
        "edited": orjson.dumps(found.edited).decode() if found.edited else None,
    }
    for name, value in about.items():
        if value:
            out.print(f"{name:<11} {escape(value)}")


@commands.command()
def approve(
    id: Id,
    reason: Annotated[str | None, typer.Option(help="Why; needed with --edit.")] = None,
    edit: Annotated[str | None, typer.Option(help="A JSON object: fields to put in place of those asked for.")] = None,
) -> None:
    """Approve it, as it was asked for or with other values (--edit)."""
    if edit is None:
        _say(_with_approvals(lambda inbox, by: inbox.approve(by, id, reason=reason)))
        return
    fields, why = _object(edit), reason
    if not why:
        raise Invalid("an edited request needs a --reason")
    _say(_with_approvals(lambda inbox, by: inbox.edit(by, id, fields, reason=why)))


@commands.command()
def deny(id: Id, reason: Annotated[str, typer.Option(help="Why.")]) -> None:
    """Deny it."""
    _say(_with_approvals(lambda inbox, by: inbox.deny(by, id, reason=reason)))


def _say(decided: ApprovalView) -> None:
    out.print(f"approval {decided.id} is {decided.state}; run {decided.run} goes on")


def _object(text: str) -> dict[str, Any]:
    found = read_json(text, "--edit")
    if not isinstance(found, dict) or not found:
        raise Invalid("--edit is a JSON object with fields, such as '{\"amount\": 7}'")
    return found


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"
