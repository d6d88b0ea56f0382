"""`backstay gateway`: spend, budgets, limits; and the simulator as a server: `backstay sim`."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, get_args
from uuid import UUID

import typer
import uvloop
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..events import Events
from ..kernel.cli import Base, Command, Json, by_id, out, print_json
from ..kernel.principal import Principal
from . import sheet
from .catalog import cli as catalog
from .models import SpendFilter
from .service import Gateway, Group
from .terms import Budget, Period, RateLimit, Scope, Unit

commands = typer.Typer(help="Model calls: what they cost, and what bounds them.", no_args_is_help=True)
budgets = typer.Typer(help="Budgets in USD, of the default tenant.", no_args_is_help=True)
limits = typer.Typer(help="Limits of requests, tokens and concurrency, of the default tenant.", no_args_is_help=True)
commands.add_typer(budgets, name="budgets")
commands.add_typer(limits, name="limits")
commands.add_typer(catalog.routes, name="routes")
commands.add_typer(catalog.providers, name="providers")
commands.add_typer(catalog.prices, name="prices")
commands.add_typer(catalog.tags, name="tags")
commands.command()(catalog.explain)

Id = Annotated[UUID, typer.Argument(help="Its id, as `list` shows it.")]
For = Annotated[Scope, typer.Argument(help="What is bounded.")]
Subject = Annotated[str | None, typer.Option(help="Key id, user, feature or provider:model; none for the tenant.")]
Since = Annotated[datetime | None, typer.Option(help="Leave out what was before (UTC).")]
Until = Annotated[datetime | None, typer.Option(help="Leave out what was from then on (UTC).")]
_SHOWN = 1000


@Command
async def _with_gateway(base: Base) -> AsyncIterator[tuple[Gateway, Principal]]:
    """A gateway that makes no calls, acting for the default tenant."""
    audit, events = Audit(base.db, base.clock, base.vault), Events(base.db, base.clock)
    by = await Auth(base.db, base.clock, base.vault, audit).operator()
    yield Gateway(base.db, base.clock, base.vault, audit, events, base.settings), by


@commands.command()
def spend(
    by: Annotated[str, typer.Option(help="Add up by feature, user, key, model or day.")] = "feature",
    since: Since = None,
    until: Until = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user.")] = None,
    key: Annotated[UUID | None, typer.Option(help="Only this key.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this provider:model.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Json = False,
) -> None:
    """Print what was used and what it cost."""
    group: Group | None = next((group for group in get_args(Group) if group == by), None)
    if group is None:
        raise typer.BadParameter(f"{by!r} is not one of {', '.join(get_args(Group))}", param_hint="--by")
    only = SpendFilter(since, until, feature, user, key, model)
    rows = _with_gateway(lambda gateway, caller: gateway.spend(caller, group, only))
    if csv:
        typer.echo(sheet.spend(group, rows), nl=False)
        return
    if json:
        print_json(rows)
        return
    table = Table(by, "calls", "input tokens", "output tokens", "USD")
    for row in rows:
        table.add_row(row.name or "-", *map(str, (row.calls, row.input_tokens, row.output_tokens)), f"{row.cost:f}")
    out.print(table if rows else "nothing spent yet")


@commands.command()
def savings(
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Print what keeping answers, routing and falling back have saved."""
    found = _with_gateway(lambda gateway, by: gateway.savings(by, since, until))
    if json:
        print_json(found)
        return
    table = Table("by", "calls", "USD saved")
    table.add_row("kept answers", str(found.cached), f"{found.by_cache:f}")
    table.add_row("routing", str(found.routed), f"{found.by_route:f}")
    table.add_row("fallback", str(found.rescued), "calls that would have failed")
    out.print(table)
    out.print(f"{found.calls} calls cost {found.cost:f} USD")


@budgets.command("list")
def list_budgets(json: Json = False) -> None:
    """List the budgets with what their running windows have spent and hold."""
    found = _with_gateway(lambda gateway, by: gateway.budgets.list(by, limit=_SHOWN))
    if json:
        print_json(found)
        return
    table = by_id("scope", "subject", "USD", "window", "hard", "spent", "held")
    for budget in found:
        figures = (f"{budget.spent:f}", f"{budget.held:f}")
        bounds = (budget.scope, budget.subject or "", f"{budget.limit:f}", budget.window)
        table.add_row(str(budget.id), *bounds, "yes" if budget.hard else "no", *figures)
    out.print(table if found else "no budgets")


@budgets.command("add")
def add_budget(
    scope: For,
    limit: Annotated[str, typer.Argument(help="USD in each window, such as 2.50.")],
    subject: Subject = None,
    window: Annotated[Period, typer.Option(help="How often it starts anew.")] = Period.MONTH,
    soft: Annotated[bool, typer.Option("--soft", help="Count and give notice, but refuse no call.")] = False,
    json: Json = False,
) -> None:
    """Bound what may be spent in each window."""
    try:
        usd = Decimal(limit)
    except InvalidOperation:
        raise typer.BadParameter(f"{limit!r} is no amount of USD; write it like 2.50", param_hint="LIMIT") from None
    made = _with_gateway(lambda gateway, by: gateway.budgets.create(by, scope, subject, usd, window, hard=not soft))
    _print_made("budget", made, json)


@budgets.command("rm")
def remove_budget(id: Id) -> None:
    """Lift a budget."""
    _with_gateway(lambda gateway, by: gateway.budgets.delete(by, id))
    out.print(f"budget {id} is lifted")


@limits.command("list")
def list_limits(json: Json = False) -> None:
    """List the limits with what their running windows have used and hold."""
    found = _with_gateway(lambda gateway, by: gateway.limits.list(by, limit=_SHOWN))
    if json:
        print_json(found)
        return
    table = by_id("scope", "subject", "limit", "unit", "window", "used", "held")
    for limit in found:
        window = "" if limit.unit is Unit.CONCURRENCY else limit.window
        bounds = (limit.scope, limit.subject or "", str(limit.limit), limit.unit, window)
        table.add_row(str(limit.id), *bounds, str(limit.used), str(limit.held))
    out.print(table if found else "no limits")


@limits.command("add")
def add_limit(
    scope: For,
    unit: Annotated[Unit, typer.Argument(help="What is counted.", metavar="[requests|tokens|concurrency]")],
    limit: Annotated[int, typer.Argument(min=0, help="How many in each window, or at the same time.")],
    subject: Subject = None,
    window: Annotated[
        Period | None, typer.Option(help="How often it starts anew; none for concurrency.", show_default="minute")
    ] = None,
    json: Json = False,
) -> None:
    """Bound requests or tokens in each window, or calls that are open at the same time."""
    made = _with_gateway(lambda gateway, by: gateway.limits.create(by, scope, subject, unit, limit, window))
    _print_made("limit", made, json)


@limits.command("rm")
def remove_limit(id: Id) -> None:
    """Lift a limit."""
    _with_gateway(lambda gateway, by: gateway.limits.delete(by, id))
    out.print(f"limit {id} is lifted")


def sim(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8090,
) -> None:
    """Run the simulated provider as a server that speaks the OpenAI format. It needs no key and no network."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(host, port))


async def _serve(host: str, port: int) -> None:
    from .sim.server import SimServer  # late: no other command needs a second web framework

    async with SimServer().running(host, port) as url:
        out.print(f"simulator   OPENAI_BASE_URL={url}")
        await asyncio.Event().wait()


def _print_made(word: str, made: Budget | RateLimit, json: bool) -> None:
    if json:
        print_json(made)
    else:
        out.print(f"{word} {made.id} binds the next call")
