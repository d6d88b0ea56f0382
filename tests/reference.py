"""The parts of the reference that are made from the code: settings, errors, metrics, routes, commands.

    python tests/reference.py        writes them into docs/reference

A test compares them, so a page that fell behind fails it.
"""

import contextlib
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from prometheus_client.metrics import MetricWrapperBase

import backstay
from backstay.app import App
from backstay.commands import commands
from backstay.kernel import telemetry
from backstay.kernel.errors import BackstayError
from backstay.kernel.settings import PREFIX, Settings

# Errors and metrics are known once their modules are loaded, and some load late.
for _module in pkgutil.walk_packages(backstay.__path__, "backstay."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
_PART = re.compile(r"(<!-- made from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_METHODS = ("get", "post", "put", "patch", "delete")


def settings() -> Iterator[str]:
    yield from _head("Variable", "In `backstay.toml`", "Default", "Meaning")
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = alias if isinstance(alias, str) else PREFIX + name.upper()
        default = "" if field.default is None else f"`{field.default}`"
        yield _row(f"`{variable}`", f"`{name}`", default, field.description or "The provider's usual variable.")


def errors() -> Iterator[str]:
    yield from _head("Code", "Status", "Title")
    found = {(kind.status, kind.code, kind.title) for kind in _tree(BackstayError)}
    for status, code, title in sorted(found):
        yield _row(f"`{code}`", status, title)


def metrics() -> Iterator[str]:
    yield from _head("Metric", "Kind", "Labels", "Meaning")
    collectors = {id(kind): kind for kind in telemetry.registry._names_to_collectors.values()}
    wrappers = [kind for kind in collectors.values() if isinstance(kind, MetricWrapperBase)]
    for wrapper in sorted(wrappers, key=lambda wrapper: wrapper._name):
        name = wrapper._name + ("_total" if wrapper._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in wrapper._labelnames)
        yield _row(f"`{name}`", wrapper._type, labels, wrapper._documentation)


def routes() -> Iterator[str]:
    yield from _head("Route", "Permission", "What it does")
    for path, operations in sorted(_described().items()):
        for method in _METHODS:
            if method in operations:
                route = operations[method]
                said = " ".join(route.get("description", "").split("\n\n")[0].split())
                yield _row(f"`{method.upper()} {path}`", f"`{route['x-backstay-permission']}`", said)


def _described() -> dict[str, dict[str, Any]]:
    """The paths of the OpenAPI document. The App makes its master key in a folder that goes again."""
    with TemporaryDirectory() as folder:
        app = App(Settings.load(database_url="", data_dir=folder))
        described: dict[str, dict[str, Any]] = app.api.openapi()["paths"]
    return described


def cli() -> Iterator[str]:
    yield from _head("Command", "What it does")
    for name, command in _commands(typer.main.get_command(commands), "backstay"):
        yield _row(f"`{name}`", command.get_short_help_str(200))


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "errors": errors,
    "metrics": metrics,
    "routes": routes,
    "cli": cli,
}


def refreshed(page: str) -> str:
    """The page with its made parts as the code has them now."""
    return _PART.sub(lambda part: "".join((part[1], "\n", *_lines(part[2]), "\n", part[3])), page)


def _lines(part: str) -> Iterator[str]:
    return (f"{line}\n" for line in PARTS[part]())


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*("---" for _ in names))


def _row(*cells: object) -> str:
    return f"| {' | '.join(' '.join(str(cell).replace('|', chr(92) + '|').split()) for cell in cells)} |"


def _tree(kind: type[BackstayError]) -> Iterator[type[BackstayError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__.startswith("backstay."):
            yield from _tree(below)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path + _arguments(command), command
        return
    for name in sorted(command.commands):
        yield from _commands(command.commands[name], f"{path} {name}")


def _arguments(command: Any) -> str:
    """Its arguments and options, as usage lines write them."""
    shown = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name in ("help", "version"):
            continue
        if parameter.param_type_name == "argument":
            name = parameter.name.upper()
            shown.append(name if parameter.required else f"[{name}]")
        else:
            flag = max(parameter.opts, key=len)
            shown.append(f"[{flag}]" if parameter.is_flag else f"[{flag} …]")
    return "".join(f" {item}" for item in shown)


def main() -> int:
    for file in sorted(FOLDER.glob("*.md")):
        page = file.read_text(encoding="utf-8")
        with contextlib.suppress(KeyError):
            fresh = refreshed(page)
            if fresh != page:
                file.write_text(fresh, encoding="utf-8")
                print(f"written  {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
