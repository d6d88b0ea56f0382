"""`backstay gateway spend`, and the simulator as a server: `backstay sim`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

import orjson
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from ..audit import Audit
from ..auth import Auth
from ..kernel.clock import SystemClock
from ..kernel.crypto import Vault
from ..kernel.db import Database
from ..kernel.embedded import EmbeddedPostgres
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from .catalog import cli as catalog
from .models import SpendRow
from .service import Gateway, Group

commands = typer.Typer(help="Model calls and what they cost.", no_args_is_help=True)
commands.add_typer(catalog.routes, name="routes")
commands.add_typer(catalog.providers, name="providers")
commands.add_typer(catalog.prices, name="prices")
commands.command()(catalog.explain)
out = Console(highlight=False, soft_wrap=True)


@commands.command()
def spend(
    by: Annotated[str, typer.Option(help="Add up by feature, user, key or model.")] = "feature",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what was used and what it cost."""
    groups: dict[str, Group] = {"feature": "feature", "user": "user", "key": "key", "model": "model"}
    if by not in groups:
        raise typer.BadParameter(f"{by!r} is not one of {', '.join(groups)}", param_hint="--by")
    rows = asyncio.run(_spend(groups[by]))
    if json:
        typer.echo(orjson.dumps(rows, default=str, option=orjson.OPT_INDENT_2))
        return
    table = Table(by, "calls", "input tokens", "output tokens", "USD")
    for row in rows:
        table.add_row(row.name or "-", *map(str, (row.calls, row.input_tokens, row.output_tokens)), f"{row.cost:f}")
    out.print(table if rows else "nothing spent yet")


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


async def _spend(group: Group) -> list[SpendRow]:
    async with _gateway() as (gateway, by):
        return await gateway.spend(by, group)


@asynccontextmanager
async def _gateway() -> AsyncIterator[tuple[Gateway, Principal]]:
    """A gateway that only reads, acting for the default tenant."""
    settings, clock = Settings.load(), SystemClock()
    vault = Vault.of(settings)
    async with AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            embedded = EmbeddedPostgres(settings.data_dir)
            url = await asyncio.to_thread(embedded.start)
            stack.push_async_callback(asyncio.to_thread, embedded.stop)
        db = Database(url, settings)
        await db.open()
        stack.push_async_callback(db.close)
        audit = Audit(db, clock, vault)
        tenant = await Auth(db, clock, vault, audit).ensure_default_tenant()
        yield Gateway(db, clock, vault, audit, settings), Principal.system(tenant.id, "command line")
