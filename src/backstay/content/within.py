"""The caller's own SQL as a filter: a query for ids, which restricts a search to documents of those ids. No I/O."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..kernel.errors import Invalid
from ..kernel.sql import Query

Given = str | tuple[str, Sequence[Any] | Mapping[str, Any]]
_PLACE = re.compile(r"%(?:\((\w+)\)s|(s)|.?)", re.DOTALL)
_DOCUMENTS = "join backstay.content d"
_LONGEST = 20_000


@dataclass(frozen=True, slots=True)
class Within:
    """A query of one column, the ids that may be found; with its values, which never become part of it."""

    text: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Given | None) -> "Within | None":
        """What a caller means: a query, or a query and its values, for `%s` or `%(name)s` in it.

        Raises:
            Invalid: it is no query, or its values and its places differ.
        """
        if given is None:
            return None
        text, values = (given, ()) if isinstance(given, str) else given
        text = text.strip().removesuffix(";")
        if not text or len(text) > _LONGEST or "\0" in text:
            raise Invalid(f"`within` is a query of 1 to {_LONGEST} characters")
        named = dict(values) if isinstance(values, Mapping) else {str(at): one for at, one in enumerate(values)}
        places: list[str] = []
        return cls("".join(_renamed(text, named, places)), _used(named, places))

    def on(self, query: Query, hashed: bool) -> Query:
        """A query that joins documents, on those of these ids only. `hashed`: compared one by one with all ids in
        memory, for a scan that must keep its order; else the planner may begin with the ids."""
        return _restricted(query, self.text, hashed)


def _renamed(text: str, values: Mapping[str, Any], places: list[str]) -> Iterator[str]:
    at = 0
    for found in _PLACE.finditer(text):
        name = found[1] if found[1] is not None else str(len(places)) if found[2] else None
        if name is None:
            raise Invalid("`within` has a bare %: pass patterns as values, and write mod() for the remainder")
        if name not in values:
            raise Invalid(f"`within` has a place for {name!r} and no value for it")
        places.append(name)
        yield f"{text[at : found.start()]}%(within_{name})s"
        at = found.end()
    yield text[at:]


def _used(values: Mapping[str, Any], places: Sequence[str]) -> dict[str, Any]:
    if unused := sorted(set(values) - set(places)):
        raise Invalid(f"`within` has no place for the value {unused[0]!r}")
    return {f"within_{name}": value for name, value in values.items()}


@lru_cache(maxsize=256)
def _restricted(query: Query, within: str, hashed: bool) -> Query:
    # A line of its own, so that a comment at the end of the caller's query ends before the bracket.
    allowed = f"o.id in (select w.id::text from (\n{within}\n) as w (id))"  # noqa: S608 -- it is the caller's own SQL
    if hashed:
        allowed = f"({allowed}) is true"  # no join then, but a hash table that is asked
    documents = f"(select o.* from backstay.content o where {allowed})"  # noqa: S608 -- the same
    text = query.text.replace(_DOCUMENTS, f"join {documents} d")
    if text == query.text:
        raise ValueError(f"{query.room}.{query.name} does not join documents as `d`")
    return Query(query.room, query.name, text)
