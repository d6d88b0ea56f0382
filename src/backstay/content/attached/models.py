"""What attached tables speak about. No I/O."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ...kernel.errors import Conflict, Invalid, NotFound
from ..models import DEV_EMBEDDER, NAME, Definition, Format

# Values of these become JSON and text in one way only, whatever the writer's session has set.
KEY_TYPES = ("smallint", "integer", "bigint", "uuid", "text", "character varying", "date")
TEXT_TYPES = ("text", "character varying", "character")
_MAX_TEXT = 10_000
_MAX_COLUMNS = 30
_MAX_ID = 500
_HASHED = "sha256:"

Key = list[Any]
"""A row's key: the values of its columns, as JSON has them."""


class TableUnfit(Invalid):
    """The table cannot be attached so; the message says why and what mends it."""

    code, title = "table_unfit", "The table cannot be attached"


class TextInvalid(Invalid):
    """The expression that makes a row's text is none that we take."""

    code, title = "text_expression_invalid", "The text expression is wrong"


class TableBusy(Conflict):
    """Others hold the table, and the change of its triggers has not waited longer."""

    code, title = "table_busy", "The table is held by another transaction"


class AttachedDiffers(Conflict):
    """An attachment of that name stands with another definition."""

    code, title = "attached_differs", "The table is attached otherwise"


class AttachedNotFound(NotFound):
    code, title = "attached_not_found", "No such attached table"


class AttachedState(StrEnum):
    """`attached`: its changes are taken over. `broken`: they are noted, and wait until `trouble` is mended. `detached`:
    nothing is noted any more, its documents stay as they were. `purging`: its documents are being deleted."""

    ATTACHED = "attached"
    BROKEN = "broken"
    DETACHED = "detached"
    PURGING = "purging"


class FillState(StrEnum):
    """`filling`: the table's rows are looked at, in the order of their keys. `pruning`: so are the documents, whose
    rows may be gone. `current`: both are done, changes are followed. `purging`: the documents are deleted."""

    FILLING = "filling"
    PRUNING = "pruning"
    CURRENT = "current"
    PURGING = "purging"


class TableDefinition(BaseModel):
    """Which table is attached, and what of its rows is searched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = Field(min_length=1, max_length=300, description="As SQL writes it: `public.products`.")
    key: tuple[str, ...] = Field(
        min_length=1, max_length=8, description="Columns of its primary key, or of another unique index, in any order."
    )
    text: str = Field(
        min_length=1,
        max_length=_MAX_TEXT,
        description="SQL expression over one row's columns that gives the searched text: `title || E'\\n' || body`.",
    )
    tenant: str | None = Field(
        None, max_length=63, description="Column of type uuid that says whose a row is; null: all are one tenant's."
    )
    owner: UUID | None = Field(
        None, description="The tenant that has all rows, when there is no such column; the caller's own if null."
    )
    columns: tuple[str, ...] = Field(
        (), max_length=_MAX_COLUMNS, description="Further columns that hits show and searches are filtered by."
    )
    embedder: str | None = Field(DEV_EMBEDDER, min_length=3, max_length=300, description="As of a collection.")
    format: Format = Format.MARKDOWN
    chunk_size: int = Field(1600, ge=100, le=8000)
    overlap: int = Field(200, ge=0, le=4000)

    @field_validator("key", mode="before")
    @classmethod
    def _one(cls, key: object) -> object:
        return (key,) if isinstance(key, str) else key

    @model_validator(mode="after")
    def _whole(self) -> "TableDefinition":
        names = [*self.key, *self.columns]
        if len(set(names)) != len(names):
            raise ValueError("a column stands twice in key and columns")
        if any(not name or "\0" in name for name in [*names, self.table, self.text, self.tenant or "-"]):
            raise ValueError("names and expressions are not empty and have no NUL character")
        if self.tenant is not None and self.owner is not None:
            raise ValueError("name either the column with the tenant, or the tenant that owns every row")
        self.of_collection  # noqa: B018 -- raises when embedder, chunk_size and overlap do not fit
        return self

    @property
    def of_collection(self) -> Definition:
        return Definition(embedder=self.embedder, format=self.format, chunk_size=self.chunk_size, overlap=self.overlap)


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached table as it stands.

    Attributes:
        name: that of the attachment, and of the collection that has its documents.
        definition: as it was given; `owner` is always known when there is no tenant column.
        expression: the text as Postgres writes it, on any search_path.
        watched: every column that matters.
        trouble: why it is `broken`.
        attached_by: the tenant that is told what becomes of it.
    """

    id: int
    name: str
    definition: TableDefinition
    expression: str
    watched: tuple[str, ...]
    state: AttachedState
    trouble: str | None
    attached_by: UUID
    created_at: datetime

    @classmethod
    def of(cls, **row: Any) -> "Attachment":
        definition = TableDefinition(
            table=row["table_name"],
            key=tuple(row["key"]),
            text=row["text"],
            tenant=row["tenant_column"],
            owner=row["owner"],
            columns=tuple(row["columns"]),
            embedder=row["embedder"],
            format=Format(row["format"]),
            chunk_size=row["chunk_size"],
            overlap=row["overlap"],
        )
        return cls(
            row["id"],
            row["name"],
            definition,
            row["expression"],
            tuple(row["watched"]),
            AttachedState(row["state"]),
            row["trouble"],
            row["attached_by"],
            row["created_at"],
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attached table is now, and the types of its key's columns."""

    schema: str
    table: str
    key_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What is taken over of a row: its key, its text, and what hits show of it, as JSON."""

    key: Key
    text: str
    body: str


@dataclass(frozen=True, slots=True)
class Fill:
    """How far a tenant's rows have been looked at. `after`: the last key, or the last document's id."""

    state: FillState
    after: Any


@dataclass(frozen=True, slots=True)
class Shadow:
    """A document that stands for a row."""

    id: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AttachedStatus:
    """An attached table and how far its rows have been taken over, over all tenants.

    Attributes:
        rows: rows in the table, as Postgres estimates them.
        tenants: tenants whose rows are followed; `filling` of them are not through for the first (or another) time.
        seen: rows that this time has looked at.
        refused: rows whose text could not be computed; `refusal` says why the last one was.
        waiting: noted changes that are not taken over yet, one for each writing statement; `lag`: seconds the oldest
            has waited.
    """

    name: str
    definition: TableDefinition
    state: AttachedState
    trouble: str | None
    created_at: datetime
    rows: int
    tenants: int
    filling: int
    seen: int
    refused: int
    refusal: str | None
    waiting: int
    lag: float

    @property
    def current(self) -> bool:
        """Whether everything that was committed when it was asked for has been taken over."""
        return self.state is AttachedState.ATTACHED and not self.filling and not self.waiting


def document_id(key: Sequence[Any]) -> str:
    """A row's document: the value of a key of one column, else the values as a JSON array. What would be no id (empty,
    too long, or like what follows) is `sha256:` and its hash."""
    id = str(key[0]) if len(key) == 1 else orjson.dumps(list(key)).decode()
    if 0 < len(id) <= _MAX_ID and not id.startswith(_HASHED):
        return id
    return _HASHED + hashlib.sha256(id.encode()).hexdigest()


def name_of(table: str) -> str:
    """The attachment's name when none is given: the table's own, without its schema.

    Raises:
        TableUnfit: it cannot be a collection's name.
    """
    name = table.rpartition(".")[2].strip('"')
    if not re.fullmatch(NAME, name):
        raise TableUnfit(f"{table} gives no name for a collection; name the attachment yourself")
    return name
