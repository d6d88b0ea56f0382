"""Filters on a document's body: what a caller writes, checked and made into what Postgres evaluates. No I/O.

    {"lang": "en"}                                     has this value (objects and lists: contains it)
    {"price": {"$gte": 10, "$lt": 20}}                 in a range
    {"lang": {"$in": ["en", "de"]}}                    one of them
    {"lang": {"$ne": "fr"}, "author.name": {"$exists": true}}
    {"$or": [{"lang": "en"}, {"price": {"$lt": 5}}]}   also "$and"

A dot leads into an object. A field that holds a list is compared by its members: any will do. Values of another type
than the one compared with do not match, save for `$ne`. Values never become part of the expression: they are passed
beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..kernel.errors import Invalid
from ..kernel.sql import Query
from .within import Within

MOST, DEEPEST = 100, 8
_COMPARISONS = {"$eq": "==", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_LISTS = ("$and", "$or")
_OPERATORS = (*_COMPARISONS, "$ne", "$in", "$exists")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a body must contain, and the jsonpath predicate that must hold for it, with the values that it names."""

    contains: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    within: Within | None = None

    @classmethod
    def of(cls, where: Mapping[str, Any] | None, within: Within | None = None) -> "Filter | None":
        """The filter that a caller means; None for none.

        Raises:
            Invalid: an operator that does not exist, a value that cannot be compared or stored, or too much of it.
        """
        if not where:
            return None if within is None else cls(within=within)
        _check(where)
        plain = {name: value for name, value in where.items() if not _is_typed(name, value)}
        typed = {name: value for name, value in where.items() if name not in plain}
        values: dict[str, Any] = {}
        parts = list(_parts(typed, values, 1))
        return cls(plain, " && ".join(parts) or None, values, within)

    def parameters(self) -> dict[str, Any]:
        """What queries call it."""
        own = {"contains": dict(self.contains), "path": self.path, "values": dict(self.values)}
        return own if self.within is None else own | dict(self.within.values)

    def on(self, query: Query, *, hashed: bool = False) -> Query:
        """A query that is written for filters, for this one (see Within.on)."""
        return query if self.within is None else self.within.on(query, hashed)


def _check(where: Mapping[str, Any]) -> None:
    try:
        encoded = orjson.dumps(where)
    except (orjson.JSONEncodeError, RecursionError):
        encoded = b"\\u0000"
    if b"\\u0000" in encoded:
        raise Invalid("`where` has a value that no stored document can have")


def _is_typed(name: str, value: Any) -> bool:
    """Whether it is more than "contains this value" at the top of the body."""
    return name.startswith("$") or "." in name or _has_operators(value)


def _has_operators(value: Any) -> bool:
    return isinstance(value, Mapping) and any(str(name).startswith("$") for name in value)


def _parts(where: Mapping[str, Any], values: dict[str, Any], depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise Invalid(f"`where` goes deeper than {DEEPEST} levels")
    for name, value in where.items():
        if name in _LISTS:
            yield _joined(name, value, values, depth)
        elif name.startswith("$"):
            raise Invalid(f"`where` has {name!r} in a field's place; there are {' and '.join(_LISTS)}")
        elif _has_operators(value):
            yield from (_condition(_place(name), operator, given, values) for operator, given in value.items())
        else:
            yield _condition(_place(name), "$eq", value, values)


def _joined(name: str, value: Any, values: dict[str, Any], depth: int) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(one, Mapping) and one for one in value):
        raise Invalid(f"`where`: {name} takes a list of filters that are not empty")
    within = [f"({' && '.join(_parts(one, values, depth + 1))})" for one in value]
    return f"({(' && ' if name == '$and' else ' || ').join(within)})"


def _place(name: str) -> str:
    """The field as a path; its name is quoted, so that it is a name whatever it holds."""
    return "$" + "".join(f".{orjson.dumps(part).decode()}" for part in name.split("."))


def _condition(place: str, operator: str, given: Any, values: dict[str, Any]) -> str:
    if operator == "$exists":
        if not isinstance(given, bool):
            raise Invalid("`where`: $exists takes true or false")
        return f"exists({place})" if given else f"!exists({place})"
    if operator == "$in":
        if not isinstance(given, list) or not given:
            raise Invalid("`where`: $in takes a list that is not empty")
        return f"({' || '.join(f'{place} == {_kept(one, values)}' for one in given)})"
    if operator == "$ne":
        same = f"{place} == {_kept(given, values)}"
        return f"(!({same}) || ({same}) is unknown)"
    if operator not in _COMPARISONS:
        raise Invalid(f"`where` has no operator {operator!r}; there are {', '.join(_OPERATORS)}")
    return f"{place} {_COMPARISONS[operator]} {_kept(given, values)}"


def _kept(given: Any, values: dict[str, Any]) -> str:
    """The name under which a value is passed."""
    if not (given is None or isinstance(given, str | int | float | bool)):
        raise Invalid("`where` compares with texts, numbers, true, false and null only")
    if len(values) >= MOST:
        raise Invalid(f"`where` has more than {MOST} values")
    name = f"v{len(values)}"
    values[name] = given
    return f"${name}"
