"""`backstay gateway routes | providers | prices | tags`, and `explain`: the catalogue of the default tenant."""

import os
import sys
import tomllib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
import typer
from pydantic import BaseModel, SecretStr, ValidationError
from rich.markup import escape
from rich.table import Table

from ...audit import Audit
from ...auth import Auth
from ...kernel.cli import Base, Command, Json, by_id, out, print_json
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from .accounts import NO_OVERLAP
from .decision import Plan
from .models import Account, NewAccount, StoredRoute, field_errors
from .price import NewPrice, Price
from .route import Route
from .service import Catalog
from .tags import TagName

routes = typer.Typer(help="Routes of the default tenant.", no_args_is_help=True)
providers = typer.Typer(help="Accounts of the default tenant at providers.", no_args_is_help=True)
prices = typer.Typer(help="Prices that the default tenant has set.", no_args_is_help=True)
tags = typer.Typer(help="Tags without which calls of the default tenant are refused.", no_args_is_help=True)
M = TypeVar("M", bound=BaseModel)
_ALL = 10_000

SecretFile = Annotated[Path | None, typer.Option(help="File that holds the secret; `-` is standard input.")]
SecretVariable = Annotated[str | None, typer.Option("--secret-env", help="Variable that holds the secret.")]


@Command
async def _with_catalog(base: Base) -> AsyncIterator[tuple[Catalog, Principal]]:
    """The catalogue, acting for the default tenant. Who has this machine may set any base URL."""
    audit = Audit(base.db, base.clock, base.vault)
    by = await Auth(base.db, base.clock, base.vault, audit).operator()
    yield Catalog(base.db, base.clock, base.vault, audit, base.settings, guard=_trusted), by


@routes.command("list")
def list_routes(json: Json = False) -> None:
    """List the routes that calls may take, the operator's too."""
    found = _with_catalog(lambda catalog, by: catalog.routes.list(by, limit=_ALL))
    if json:
        print_json([_route(stored) for stored in found])
        return
    table = Table("route", "from", "strategy", "targets")
    for stored in found:
        route, source = stored.route, "operator" if stored.revision is None else "tenant"
        models = ", ".join(target.model for target in route.targets) if route else "stored by a newer release"
        table.add_row(stored.name, source, route.strategy if route else "", escape(models))
    out.print(table if found else "no routes yet")


@routes.command("set")
def set_route(
    name: Annotated[str, typer.Argument(help="The route.")],
    target: Annotated[list[str] | None, typer.Argument(help="provider:model, the first choice first.")] = None,
    strategy: Annotated[str | None, typer.Option(help="ordered, weighted, cost or latency.")] = None,
    sticky: Annotated[bool | None, typer.Option(help="Keep a conversation at its target.")] = None,
    file: Annotated[Path | None, typer.Option(help="The whole definition, as .json or .toml.")] = None,
) -> None:
    """Make a route or change it. Arguments go over what the file says."""
    given = {"targets": target or None, "strategy": strategy, "sticky": sticky}
    wanted = (_read(file) if file else {}) | {key: value for key, value in given.items() if value is not None}
    route = _made(Route, {**wanted, "name": name})
    stored = _with_catalog(lambda catalog, by: catalog.routes.put(by, route))
    out.print(f"{name}: revision {stored.revision}")


@routes.command("rm")
def remove_route(name: Annotated[str, typer.Argument(help="The route.")]) -> None:
    """Remove a route of the tenant's own."""
    _with_catalog(lambda catalog, by: catalog.routes.delete(by, name))
    out.print(f"{name}: removed")


@providers.command("list")
def list_providers(json: Json = False) -> None:
    """List the accounts, without their secrets."""
    found = _with_catalog(lambda catalog, by: catalog.providers.list(by, limit=_ALL))
    if json:
        print_json([_account(account) for account in found])
        return
    table = Table("account", "kind", "base URL", "secrets")
    for account in found:
        secrets = ", ".join(f"…{secret.last4} of {secret.set_at:%Y-%m-%d}" for secret in account.secrets)
        table.add_row(account.name, account.kind, account.base_url or "", secrets or "none")
    out.print(table if found else "no accounts yet")


@providers.command("set")
def set_provider(
    name: Annotated[str, typer.Argument(help="The account: the prefix in name:model.")],
    kind: Annotated[str, typer.Option(help="Which provider it is an account of, such as openai.")],
    base_url: Annotated[str | None, typer.Option(help="Where it is reached, if not at the usual place.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    secret_file: SecretFile = None,
    secret_env: SecretVariable = None,
) -> None:
    """Make an account or change it. Without a secret, the one that stands is kept."""
    options = dict(_pair(item) for item in option or [])
    given = {"kind": kind, "base_url": base_url, "options": options, "secret": _secret(secret_file, secret_env)}
    new = _made(NewAccount, given)
    account = _with_catalog(lambda catalog, by: catalog.providers.put(by, name, new))
    out.print(f"{name}: {len(account.secrets)} secret{'' if len(account.secrets) == 1 else 's'}")


@providers.command("rotate")
def rotate_provider(
    name: Annotated[str, typer.Argument(help="The account.")],
    secret_file: SecretFile = None,
    secret_env: SecretVariable = None,
    overlap: Annotated[float, typer.Option(help="Seconds for which the old secret is good beside it.", min=0)] = 0,
) -> None:
    """Set a new secret, read from a file, standard input or a variable."""
    secret = _made(NewAccount, {"kind": "any", "secret": _secret(secret_file, secret_env)}).secret
    if secret is None:
        raise typer.BadParameter("name the place of the new secret: --secret-file or --secret-env")
    new, beside = secret, timedelta(seconds=overlap) if overlap else NO_OVERLAP
    _with_catalog(lambda catalog, by: catalog.providers.rotate(by, name, new, overlap=beside))
    out.print(f"{name}: rotated")


@providers.command("rm")
def remove_provider(name: Annotated[str, typer.Argument(help="The account.")]) -> None:
    """Remove an account with its secrets."""
    _with_catalog(lambda catalog, by: catalog.providers.delete(by, name))
    out.print(f"{name}: removed")


@prices.command("list")
def list_prices(json: Json = False) -> None:
    """List the prices, oldest first."""
    found = _with_catalog(lambda catalog, by: catalog.prices.list(by, limit=_ALL))
    if json:
        print_json([_price(price) for price in found])
        return
    table = by_id("pattern", "input", "output", "from", "until")
    for price in found:
        until = f"{price.ends_at:%Y-%m-%d %H:%M}" if price.ends_at else ""
        usd = (f"{price.rates.input:f}", f"{price.rates.output:f}")
        table.add_row(str(price.id), escape(price.pattern), *usd, f"{price.starts_at:%Y-%m-%d %H:%M}", until)
    out.print(table if found else "no prices set yet")


@prices.command("set")
def set_price(
    pattern: Annotated[str, typer.Argument(help="provider:model, or the beginning of it and *.")],
    input: Annotated[str, typer.Option(help="USD per million input tokens; 0 is a price.")],
    output: Annotated[str, typer.Option(help="USD per million output tokens.")],
    cached: Annotated[str | None, typer.Option(help="Input read from the provider's cache.")] = None,
    written: Annotated[str | None, typer.Option(help="Input written to the provider's cache.")] = None,
    written_hour: Annotated[str | None, typer.Option(help="Input written to it for an hour.")] = None,
    input_audio: Annotated[str | None, typer.Option(help="Audio input.")] = None,
    output_audio: Annotated[str | None, typer.Option(help="Audio output.")] = None,
    web_search: Annotated[str | None, typer.Option(help="USD per 1,000 web searches of the provider's.")] = None,
    starts: Annotated[str | None, typer.Option(help="When it begins to hold, such as 2026-02-01T00:00Z.")] = None,
    ends: Annotated[str | None, typer.Option(help="When it holds no longer.")] = None,
) -> None:
    """Set a price. It takes over from an earlier one when it begins to hold."""
    kinds = {"cached": cached, "written": written, "written_hour": written_hour}
    other = {"input_audio": input_audio, "output_audio": output_audio, "web_search": web_search}
    dates = {"starts_at": starts, "ends_at": ends}
    new = _made(NewPrice, {"pattern": pattern, "input": input, "output": output, **kinds, **other, **dates})
    out.print(str(_with_catalog(lambda catalog, by: catalog.prices.add(by, new)).id))


@prices.command("rm")
def remove_price(id: Annotated[UUID, typer.Argument(help="The price's id.")]) -> None:
    """Remove a price."""
    _with_catalog(lambda catalog, by: catalog.prices.delete(by, id))
    out.print(f"{id}: removed")


@tags.command("list")
def list_tags(json: Json = False) -> None:
    """List the tags that are mandatory."""
    found = _with_catalog(lambda catalog, by: catalog.tags.get(by)).told()
    if json:
        print_json(found)
        return
    out.print(", ".join(found) or "no tag is mandatory")


@tags.command("set")
def set_tags(names: Annotated[list[TagName], typer.Argument(help="feature, user, or both.", metavar="TAG...")]) -> None:
    """Make these tags mandatory, and no others."""
    required = _with_catalog(lambda catalog, by: catalog.tags.require(by, names))
    out.print(f"{' and '.join(required.told())}: mandatory")


@tags.command("rm")
def remove_tags() -> None:
    """Ask for no tag any more."""
    _with_catalog(lambda catalog, by: catalog.tags.require(by, ()))
    out.print("no tag is mandatory")


def explain(
    model: Annotated[str | None, typer.Option(help="A route, or provider:model; else the file's.")] = None,
    file: Annotated[Path | None, typer.Option(help="The request's body as JSON; `-` is standard input.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="name=value, such as backstay-task=chat.")] = None,
    json: Json = False,
) -> None:
    """Show where a request would go, and why. Nothing is called.

    Latencies and breakers are known to the running server only: ask POST /api/gateway/explain for them.
    """
    body = _read(file) if file else {}
    if model is not None:
        body["model"] = model
    if not isinstance(body.get("model"), str):
        raise typer.BadParameter("name the model: --model, or `model` in the file")
    headers = dict(_pair(item) for item in header or [])
    plan = _with_catalog(lambda catalog, by: catalog.explain(by, body, headers))
    if json:
        print_json(plan.explained())
    else:
        _show(plan)


def _show(plan: Plan) -> None:
    out.print(escape(plan.why))
    for place, choice in enumerate(plan.targets, 1):
        out.print(f"  {place}. {escape(choice.model)}  [dim]{escape(choice.reason)}[/dim]")
    for choice in plan.skipped:
        out.print(f"  -  {escape(choice.model)}  [dim]{escape(choice.reason)}[/dim]")
    if plan.complexity is not None:
        rules = ", ".join(f"{rule.rule} {rule.points} ({rule.because})" for rule in plan.complexity.fired)
        out.print(f"complexity {plan.complexity.level}, {plan.complexity.score}: {escape(rules) or 'no rule fired'}")


async def _trusted(url: str) -> None:
    """The operator's own choice."""


def _made(kind: type[M], values: Mapping[str, Any]) -> M:
    try:
        return kind(**values)
    except ValidationError as error:
        wrong = field_errors(error)
        told = "; ".join(f"{item.field}: {item.message}" if item.field else item.message for item in wrong)
        raise Invalid(told, errors=wrong) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        read = tomllib.loads(raw.decode()) if file.suffix == ".toml" else orjson.loads(raw)
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Invalid(f"{file} is no {'TOML' if file.suffix == '.toml' else 'JSON'}") from None
    if not isinstance(read, dict):
        raise Invalid(f"{file} must hold an object")
    return read


def _secret(file: Path | None, variable: str | None) -> SecretStr | None:
    """Never from an argument: those are seen by everyone on the machine."""
    if variable is not None:
        if not (value := os.environ.get(variable)):
            raise typer.BadParameter(f"the variable {variable} is not set")
        return SecretStr(value)
    if file is None:
        return None
    try:
        return SecretStr((sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")).strip())
    except (OSError, UnicodeDecodeError):
        raise Invalid(f"{file} cannot be read as text") from None


def _pair(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{item!r} is not written name=value")
    return name, value


def _route(stored: StoredRoute) -> dict[str, Any]:
    definition = dict(stored.route.definition()) if stored.route else None
    return {"name": stored.name, "revision": stored.revision, "definition": definition}


def _account(account: Account) -> dict[str, Any]:
    secrets = [
        {"id": secret.id, "last4": secret.last4, "set_at": secret.set_at, "ends_at": secret.ends_at}
        for secret in account.secrets
    ]
    return {"name": account.name, **account.told(), "revision": account.revision, "secrets": secrets}


def _price(price: Price) -> dict[str, Any]:
    dates = {"starts_at": price.starts_at, "ends_at": price.ends_at}
    return {"id": price.id, "pattern": price.pattern, **price.rates.model_dump(mode="json"), **dates}
