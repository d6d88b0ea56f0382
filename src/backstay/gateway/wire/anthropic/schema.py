"""JSON schemas as Anthropic's strict mode takes them: every object closed, and only the keywords that it can hold to.

What it cannot hold to (a length, a range, a format of its own) goes into the description, where the model reads it.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..base import Body
from ..fields import wrong
from .fields import too_deep

_KEPT = frozenset({"type", "enum", "const", "title", "description", "default", "required", "$ref", "pattern"})
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_LISTS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_MAPS = ("properties", "$defs", "definitions")
_DROPPED = frozenset({"$schema", "$id", "additionalProperties"})


def strict(schema: Mapping[str, Any], field: str) -> Body:
    """`schema` with nothing in it that the strict mode refuses.

    Raises:
        BadRequest: it is nested too deeply, or open to any property: that cannot be promised (400).
    """
    if too_deep(dict(schema)):
        raise wrong(field, "is nested too deeply")
    found: Body = _strict(schema, field)
    return found


def _strict(schema: Any, field: str) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    found: Body = {}
    hints: list[str] = []
    if "$ref" in schema:
        # A reference stands alone.
        schema = {name: schema[name] for name in ("$ref", "$defs", "definitions") if name in schema}
    for name, value in schema.items():
        if name in _KEPT or (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1)):
            found[name] = value
        elif name in _MAPS and isinstance(value, Mapping):
            found[name] = {key: _strict(inner, field) for key, inner in value.items()}
        elif name in _LISTS and isinstance(value, list):
            # What stands in oneOf is told apart by its shape here as there.
            found[_LISTS[name]] = [_strict(inner, field) for inner in value]
        elif name == "items":
            found[name] = _strict(value, field)
        elif name not in _DROPPED:
            hints.append(f"{name}: {orjson.dumps(value).decode()}")
    if _is_object(schema):
        _close(schema, found, field)
    if hints:
        told = found.get("description")
        found["description"] = (f"{told}\n" if told else "") + f"Must hold: {', '.join(hints)}"
    return found


def _close(schema: Mapping[str, Any], found: Body, field: str) -> None:
    if "properties" not in schema and schema.get("additionalProperties") is not False:
        # Closing it would leave only {}.
        raise wrong(field, "has an object open to any property, which Anthropic cannot hold to; name its properties")
    found["additionalProperties"] = False


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema
