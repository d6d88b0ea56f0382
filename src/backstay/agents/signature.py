"""A function's parameters as a JSON schema for the model, and the model's arguments as values for the function."""

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, NotRequired, Required, get_type_hints

from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from ..kernel.errors import ConfigurationError
from .context import ToolContext

KEY = "idempotency_key"
_ARGS = re.compile(r"^\s*(?:Args|Arguments|Parameters):\s*$")
_SECTION = re.compile(r"^\s*(?:Returns?|Raises|Yields|Examples?|Notes?):")
_ENTRY = re.compile(r"^(\s+)\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")
_FIELD = re.compile(r"^\s*:param\s+(?:\S+\s+)?(\w+):\s*(.*)$")
_MOST_TOLD = 5  # faults of one call that the model is told


class BadArguments(Exception):
    """What is wrong with the arguments, in words for the model."""


class Signature:
    """`description` and `schema` are what the model sees; `read` checks what it sends, strictly."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.description, told = _documented(function)
        hints = _hints(function, name)
        fields: dict[str, Any] = {}
        self.context: str | None = None
        self.wants_key = False
        for parameter in _parameters(function, name):
            hint = hints.get(parameter.name)
            if hint is ToolContext:
                self.context = parameter.name
            elif parameter.name == KEY:
                self.wants_key = True
            elif hint is None:
                raise ConfigurationError(
                    f"the tool {name} cannot be offered: annotate its parameter `{parameter.name}` with a type"
                )
            else:
                fields[parameter.name] = _field(parameter, hint, told.get(parameter.name))
        self._arguments = _adapter(fields, name)
        self.schema: dict[str, Any] = self._arguments.json_schema()
        self.schema.pop("title", None)
        for property in self.schema.get("properties", {}).values():
            property.pop("title", None)

    def read(self, arguments: str) -> dict[str, Any]:
        """The model's arguments as values of the annotated types. A parameter that it left out is left to its default.

        Raises:
            BadArguments: they are no JSON object, or do not fit; unknown names do not fit either.
        """
        try:
            return dict(self._arguments.validate_json(arguments or "{}", strict=True))
        except ValidationError as error:
            faults = error.errors(include_input=False, include_url=False)
            lines = [f"- {'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}" for fault in faults]
            more = f"\n- and {len(lines) - _MOST_TOLD} more" if len(lines) > _MOST_TOLD else ""
            raise BadArguments("The arguments are wrong:\n" + "\n".join(lines[:_MOST_TOLD]) + more) from None


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise ConfigurationError(f"the tool {name} cannot be offered: Python knows no signature of it") from None
    for parameter in found:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"the tool {name} cannot be offered: its parameter `{parameter}` has no name that a model could use; "
                "give each parameter a name of its own"
            )
    return found


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    plain = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        return get_type_hints(plain, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigurationError(
            f"the tool {name} cannot be offered: its annotations cannot be read ({error}). Import the types that it "
            "names at run time, not under TYPE_CHECKING"
        ) from None


def _field(parameter: inspect.Parameter, hint: Any, told: str | None) -> Any:
    extra: dict[str, Any] = {}
    optional = parameter.default is not parameter.empty
    if optional:
        # A default with no JSON form is not shown; the function has it all the same.
        with suppress(PydanticSerializationError):
            extra["default"] = to_jsonable_python(parameter.default)
    if told or extra:
        hint = Annotated[hint, Field(description=told, json_schema_extra=extra or None)]
    return NotRequired[hint] if optional else Required[hint]


def _adapter(fields: Mapping[str, Any], name: str) -> TypeAdapter[Any]:
    # A typed dict, not a model: parameters may have any name, and defaults stay the function's own.
    make: Any = TypedDict
    form = make(name, dict(fields))
    form.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        return TypeAdapter(form)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        what = str(error).splitlines()[0]
        raise ConfigurationError(
            f"the tool {name} cannot be offered: a parameter's type has no schema: {what}"
        ) from None


def _documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description in a docstring, and what it says of each parameter (`Args:` sections and `:param name:`)."""
    lines = (inspect.getdoc(function) or "").splitlines()
    description: list[str] = []
    told: dict[str, str] = {}
    name, inside, margin = "", False, 0
    for line in lines:
        if _ARGS.match(line):
            inside, name = True, ""
        elif found := _FIELD.match(line):
            name, inside = found[1], True
            told[name] = found[2].strip()
        elif _SECTION.match(line):
            inside, name = False, ""
            break
        elif not inside:
            description.append(line)
        elif (found := _ENTRY.match(line)) and (not name or len(found[1]) <= margin):
            name, margin = found[2], len(found[1])
            told[name] = found[3].strip()
        elif name and line.strip():
            told[name] = f"{told[name]} {line.strip()}".strip()
        elif line.strip():
            inside = False
    return "\n".join(description).strip(), told
