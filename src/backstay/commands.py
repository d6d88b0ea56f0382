"""Every command: the few that run the whole, and those that the rooms bring along."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
import uvloop
from rich.table import Table

from . import __version__, server
from .builtin.cli import commands as builtin_commands
from .content.attached.cli import commands as attached_commands
from .content.cli import commands as content_commands
from .content.enrichment.cli import commands as enrichment_commands
from .content.spaces.cli import commands as spaces_commands
from .demo.cli import commands as demo_command
from .gateway.cli import commands as gateway_commands
from .gateway.cli import sim
from .jobs.cli import commands as jobs_commands
from .jobs.schedules.cli import commands as schedules_commands
from .kernel.cli import commands as db_commands
from .kernel.cli import database, out
from .kernel.migrate import Migrations
from .kernel.roles import bootstrap
from .kernel.settings import PREFIX, Settings
from .kernel.telemetry import configure_logging
from .workflows.approvals.cli import commands as approvals_commands
from .workflows.cli import commands as runs_commands
from .workflows.machines.cli import commands as machines_commands

commands = typer.Typer(
    name="backstay",
    help="The backend AI agents stand on: gateway, durable runs, search, streams and audit on one Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
migrate = typer.Typer(help="Versioned, reversible migrations.", no_args_is_help=True)
keys = typer.Typer(help="API keys of the default tenant.", no_args_is_help=True)
config = typer.Typer(help="Effective settings.", no_args_is_help=True)

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.", show_default="8080")]
AppPath = Annotated[str | None, typer.Option("--app", help="Your own App, as module:attribute.")]


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def _settings(**flags: object) -> Settings:
    """Settings with the flags on top; the flags also reach child processes and a user's own App."""
    for name, value in flags.items():
        if value is not None:
            os.environ[PREFIX + name.upper()] = str(value)
    settings = Settings.load()
    configure_logging(settings.log_level, settings.log_format)
    return settings


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"backstay {__version__}")
        raise typer.Exit


@commands.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """The backend AI agents stand on."""


@commands.command()
def up(host: Host = None, port: Port = None, app: AppPath = None) -> None:
    """Run everything here: embedded database, migrations, API, workers."""
    _run(server.up(_settings(host=host, port=port, app=app), out))


@commands.command()
def serve(host: Host = None, port: Port = None, app: AppPath = None) -> None:
    """Run the API alone, on a migrated database."""
    _run(server.serve(_settings(host=host, port=port, app=app), out))


@commands.command()
def worker(
    app: AppPath = None,
    queue: Annotated[list[str] | None, typer.Option(help="Only this queue; may be repeated.")] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run a worker: it claims jobs and carries runs on until it is told to stop."""
    _run(server.work(_settings(app=app), queue, out, with_parent=with_parent))


@migrate.command("up")
def migrate_up(target: Annotated[str, typer.Argument(help="A number, or head.")] = "head") -> None:
    """Apply what is missing."""
    with database(_settings()) as url:
        asyncio.run(bootstrap(url))
        count = Migrations(url).up(target, on_step=lambda name: out.print(f"  {name}"))
    out.print(f"{count} applied" if count else "nothing to do")


@migrate.command("down")
def migrate_down(target: Annotated[str, typer.Argument(help="The number to go back to, or base.")]) -> None:
    """Take migrations back until TARGET is the newest."""
    with database(_settings()) as url:
        Migrations(url).down(target, on_step=lambda name: out.print(f"  {name}"))
    out.print(f"back at {target}")


@migrate.command("status")
def migrate_status() -> None:
    """Show which migrations the database has. Exit code 1 when some are missing."""
    with database(_settings()) as url:
        migrations = Migrations(url)
        pending = {step.number for step in migrations.pending()}
    for step in migrations.history:
        out.print(f"  {step.name:<24} {step.phase:<9} {'pending' if step.number in pending else 'applied'}")
    raise typer.Exit(1 if pending else 0)


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Name of the new principal.")],
    role: Annotated[str, typer.Option(help="owner, admin, developer, operator, approver, auditor, viewer.")] = (
        "developer"
    ),
    feature: Annotated[str | None, typer.Option(help="Tag for this key's model calls.")] = None,
) -> None:
    """Create a principal and its key, shown once."""
    _run(server.create_key(_settings(), name, role, feature, out))


@keys.command("list")
def keys_list() -> None:
    """List the keys, without their secrets."""
    _run(server.list_keys(_settings(), out))


@config.command("show")
def config_show() -> None:
    """Show every setting, its value with secrets masked, and where it came from."""
    settings, origin = Settings.load_with_sources()
    table = Table("setting", "value", "from", "meaning", box=None, pad_edge=False)
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias if isinstance(field.validation_alias, str) else PREFIX + name.upper()
        table.add_row(variable, server.masked(getattr(settings, name)), origin[name], field.description or "")
    out.print(table)


commands.add_typer(migrate, name="migrate")
commands.add_typer(keys, name="keys")
commands.add_typer(config, name="config")
commands.add_typer(db_commands, name="db", help="The database: shell, dump, restore.")
commands.add_typer(jobs_commands, name="jobs", help="Jobs: look, retry, cancel.")
commands.add_typer(schedules_commands, name="schedules", help="Schedules: look, pause, resume, run, delete.")
commands.add_typer(builtin_commands, name="builtin", help="Built-in jobs, and what they have left.")
commands.add_typer(runs_commands, name="runs", help="Runs and their steps.")
commands.add_typer(approvals_commands, name="approvals", help="What runs ask people for: look, approve, deny.")
commands.add_typer(machines_commands, name="machines", help="State machines and their instances.")
content_commands.add_typer(attached_commands)
commands.add_typer(content_commands, name="content", help="Ingest and search documents.")
commands.add_typer(enrichment_commands, name="enrich", help="Have a model fill fields of documents.")
commands.add_typer(spaces_commands, name="spaces", help="Change a collection's embedding model.")
commands.add_typer(gateway_commands, name="gateway", help="Model calls and what they cost.")
commands.command("sim")(sim)
commands.command("demo")(demo_command)
