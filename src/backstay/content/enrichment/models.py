"""What enrichment speaks about: which field a model fills, with what prompt, and how far that is. No I/O."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from ...kernel.errors import Invalid, NotFound

FIELD = r"^[a-zA-Z_][a-zA-Z0-9_]{0,99}$"
_PLACE = re.compile(r"\{([a-zA-Z_][\w]*(?:\.[\w]+)*)\}")


def valid_field(name: str) -> str:
    """A field that a model can fill.

    Raises:
        Invalid: it is no such name (422).
    """
    if not re.fullmatch(FIELD, name):
        raise Invalid(f"a field that a model fills is a name of letters, digits and underscores, not {name!r}")
    return name


class EnrichmentNotFound(NotFound):
    code, title = "enrichment_not_found", "No model fills this field"


class Enrichment(BaseModel):
    """How a model fills a field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, max_length=300, description="A route, or `provider:model`.")
    prompt: str = Field(
        min_length=1,
        max_length=20_000,
        pattern=r"^[^\x00]*$",
        description="What is asked. `{title}` or `{author.name}` stand for fields of the body; without any, every text "
        "of the body follows.",
    )
    max_tokens: int = Field(500, ge=1, le=100_000, description="Of the answer; one that is cut off is not kept.")

    @property
    def revision(self) -> bytes:
        """Names everything that decides the answer, beside the document."""
        return hashlib.sha256(orjson.dumps([self.model, self.prompt, self.max_tokens])).digest()

    def asks(self, body: Mapping[str, Any], filled: frozenset[str]) -> str:
        """What is asked about a document. `filled`: fields that models fill; they count only where the prompt names
        them."""
        if _PLACE.search(self.prompt):
            return _PLACE.sub(lambda place: _text(_at(body, place[1].split("."))), self.prompt)
        own = {name: value for name, value in body.items() if name not in filled}
        return "\n\n".join([self.prompt, *_texts(own)])

    def source(self, question: str) -> bytes:
        """Names the question: the same one is not asked twice."""
        return hashlib.sha256(self.revision + question.encode(errors="replace")).digest()


@dataclass(frozen=True, slots=True)
class EnrichmentStanding:
    """A field that a model fills, and how far that is. `cost` is in USD, of the documents that stand."""

    field: str
    model: str
    prompt: str
    max_tokens: int
    waiting: int
    done: int
    failed: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Enriched:
    """What was made, or is to be made, of a document's field. `value` once it is done."""

    content_id: str
    field: str
    source: bytes
    state: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A document whose field could not be filled, and why."""

    id: str
    error: str
    since: datetime


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
