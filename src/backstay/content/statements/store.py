"""Puts the statements of the legs together. No decisions, and no value becomes SQL."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from psycopg import Error, adapters
from psycopg import sql as pgsql
from psycopg.adapt import PyFormat, Transformer

from ...kernel import sql
from ...kernel.errors import Invalid
from ...kernel.halfvec import Halfvec
from ...kernel.sql import Query
from ..legs import Leg
from ..models import Flag
from .models import Statement

Values = dict[str, Any]
Part = tuple[str, Values]
_queries = sql.load(__package__)
_PLACE = re.compile(r"%\((\w+)\)s")
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_EMPTY = re.compile(r"/\* (\w+) \*/ select [^()]*(?=\))")
_UNSAFE = re.compile(r"[^A-Za-z0-9 .,_+\-\[\]/]")


def statement(legs: Mapping[str, Part], *, fused: bool, mode: str, flags: tuple[Flag, ...], **values: Any) -> Statement:
    """The whole search. `values`: what the frame takes."""
    text, params = _filled(_queries.hits, legs, {"fused": fused, **values}, "backstay_")
    literal = f"({as_literals(text, params)})"
    return Statement(literal, f"({text})", params, pgsql.SQL(literal), mode, flags)


def part(leg: Leg) -> Part:
    """A leg that stands in a statement as it is."""
    return _text(leg.query), {name: _plain(value) for name, value in leg.values.items()}


def deciding(indexed: Leg, exact: Leg, count: tuple[Query, Values], *, exact_rows: int, limit: int) -> Part:
    """A leg that decides when it runs between the index and looking at every vector."""
    parts = {"exact": part(exact), "count": part(Leg(*count))}
    values = {
        "statement": as_literals(*part(indexed)),
        "settings": _plain(dict(indexed.settings)),
        "exact_rows": exact_rows,
        "limit": limit,
    }
    return _filled(_queries.nearest, parts, values, "own_")


def as_literals(text: str, values: Values) -> str:
    """A statement with its values in it, and without a character that a driver takes for a place of its own."""
    written = _PLACE.sub(lambda place: literal(values[place[1]]), text)
    if "%" in written:
        raise ValueError(f"a leg's statement has a %: {written[:200]}")
    return written


def literal(value: Any) -> str:
    """A value as SQL that no driver, template or encoding can misread: every other character than letters, digits and
    a few marks is written as its number.

    Raises:
        Invalid: Postgres has no such value, or psycopg does not know it.
    """
    if value is None:
        return "null"
    try:
        dumper = Transformer().get_dumper(value, PyFormat.TEXT)
        data = dumper.dump(value)
    except (Error, TypeError, ValueError) as error:
        raise Invalid(f"a value cannot be passed to Postgres: {error}") from None
    text = bytes(data or b"").decode()
    if "\0" in text:
        raise Invalid("a value has a NUL character, which Postgres cannot store in text")
    escaped = _UNSAFE.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
    return f"E'{escaped}'{_cast(dumper.oid)}"


def _cast(oid: int) -> str:
    found = adapters.types.get(oid)
    if found is None:
        return ""
    return f"::{found.regtype}{'[]' if found.array_oid == oid else ''}"


def _filled(query: Query, parts: Mapping[str, Part], values: Values, prefix: str) -> Part:
    """A frame with the parts in their places; names of values are told apart by where they belong."""
    text, params = _named(_text(query), values, prefix)

    def placed(found: re.Match[str]) -> str:
        if found[1] not in parts:
            return found[0]
        inner, own = _named(*parts[found[1]], f"{prefix}{found[1]}_")
        params.update(own)
        return inner

    return _EMPTY.sub(placed, text), params


def _named(text: str, values: Values, prefix: str) -> Part:
    return _PLACE.sub(rf"%({prefix}\1)s", text), {f"{prefix}{name}": value for name, value in values.items()}


def _text(query: Query) -> str:
    return _COMMENT.sub("", query.text).rstrip().removesuffix(";")


def _plain(value: Any) -> Any:
    """A value for any connection: not all of them know what a dict or a vector of ours is."""
    if isinstance(value, Halfvec):
        return str(value)
    return orjson.dumps(value).decode() if isinstance(value, dict) else value
