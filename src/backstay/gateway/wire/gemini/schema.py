"""Schemas: Gemini has two kinds. `parameters` and `responseSchema` take an OpenAPI dialect of its own (types in
capitals, `nullable`); `parametersJsonSchema` and `responseJsonSchema` take JSON schema, with a few rules. Both are read
into JSON schema; JSON schema is written.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..fields import wrong

_MOST_LEVELS = 64
_ONE = (
    "items",
    "additionalProperties",
    "additional_properties",
    "not",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
)
_SEVERAL = ("anyOf", "any_of", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "defs", "definitions", "dependentSchemas")
# What Google calls otherwise than JSON schema does, in either of its two styles.
_NAMES = {
    "any_of": "anyOf",
    "additional_properties": "additionalProperties",
    "defs": "$defs",
    "ref": "$ref",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}
_DROPPED = ("nullable", "propertyOrdering", "property_ordering", "example")

Schema = dict[str, Any]


def from_google(schema: Mapping[str, Any], at: str) -> Schema:
    """JSON schema that means what Google's dialect says.

    Raises:
        BadRequest: nested more deeply than any real schema (400); so do the others.
    """
    return _walk(schema, at, _translate)


def for_google(schema: Mapping[str, Any], at: str) -> Schema:
    """The same JSON schema in the words that Gemini knows: no `const`, no `definitions`, no `allOf`, and nothing beside
    a `$ref`. Keywords that it only ignores are left alone."""
    return _walk(schema, at, _tidy)


def is_empty(schema: Mapping[str, Any]) -> bool:
    """An object without properties: a function that takes nothing, for which Gemini wants no schema at all."""
    return (
        schema.get("type", "object") == "object"
        and not set(schema) - {"type", "properties", "required", "$schema"}
        and (not schema.get("properties"))
    )


def _walk(schema: Mapping[str, Any], at: str, change: Callable[[Schema], Schema], level: int = 0) -> Schema:
    if level > _MOST_LEVELS:
        raise wrong(at, f"is nested more than {_MOST_LEVELS} levels deep")

    def go(inner: Any) -> Any:
        return _walk(inner, at, change, level + 1) if isinstance(inner, dict) else inner

    copy: Schema = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            copy[key] = {name: go(inner) for name, inner in value.items()}
        elif (key in _SEVERAL or key == "items") and isinstance(value, list):
            copy[key] = [go(inner) for inner in value]
        elif key in _ONE:
            copy[key] = go(value)
        else:
            copy[key] = value
    return change(copy)


def _translate(schema: Schema) -> Schema:
    found: Schema = {}
    for key, value in schema.items():
        name = _NAMES.get(key, key)
        if key in _DROPPED:
            continue
        if name in _COUNTS and isinstance(value, str) and value.isdecimal() and len(value) < 20:
            # 64-bit numbers are texts in Google's JSON.
            value = int(value)
        elif name == "type" and isinstance(value, str):
            if value.upper() not in _TYPES:
                continue
            value = value.lower()
        elif name == "$ref" and isinstance(value, str):
            value = value.replace("#/defs/", "#/$defs/")
        elif name == "format" and value == "enum":
            continue
        found[name] = value
    return _nullable(found) if schema.get("nullable") is True else found


def _nullable(schema: Schema) -> Schema:
    kind = schema.get("type")
    if isinstance(kind, str) and kind != "null":
        schema["type"] = [kind, "null"]
        if isinstance(schema.get("enum"), list):
            schema["enum"] = [*schema["enum"], None]
        return schema
    if isinstance(schema.get("anyOf"), list):
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
        return schema
    return {"anyOf": [schema, {"type": "null"}]} if "$ref" in schema else schema


def _tidy(schema: Schema) -> Schema:
    schema.pop("$schema", None)
    if isinstance(schema.get("definitions"), dict) and isinstance(defined := schema.get("$defs", {}), dict):
        schema["$defs"] = {**schema.pop("definitions"), **defined}
    alone = schema.get("allOf")
    if isinstance(alone, list) and len(alone) == 1 and isinstance(alone[0], dict):
        schema = {**alone[0], **{key: value for key, value in schema.items() if key != "allOf"}}
    if isinstance(schema.get("const"), str | int | float) and not isinstance(schema["const"], bool):
        schema["enum"] = [schema.pop("const")]
    if isinstance(schema.get("$ref"), str):
        target = schema["$ref"].replace("#/definitions/", "#/$defs/")
        return {key: value for key, value in schema.items() if key.startswith("$")} | {"$ref": target}
    return schema
