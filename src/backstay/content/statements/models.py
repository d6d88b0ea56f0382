"""A search as SQL. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models import Flag

if TYPE_CHECKING:
    from psycopg.sql import SQL

COLUMNS = ("id", "chunk", "rank", "score", "text_score", "vector_score", "text")


@dataclass(frozen=True, slots=True)
class Statement:
    """A search as a subquery in brackets: `select … from {found} hit join product p on p.id::text = hit.id`.

    Its columns: `id` of the document (text), `chunk` (uuid), `rank` (from 1 on), `score`, `text_score`, `vector_score`
    (null where a leg did not find it), and the chunk's `text`. It is put into SQL in one of three ways:

    Attributes:
        sql: with its values in it as literals; also `str(found)`, so that an f-string will do. It holds no `%`, and no
            colon or `$` that a driver takes for a parameter.
        text, params: with places `%(backstay_…)s`, and the values for them.
        composed: `sql` for psycopg's `sql.SQL("… {found} …").format(found=…)`.
        mode, flags: as in SearchAnswer; `short` shows when it runs.
    """

    sql: str
    text: str
    params: Mapping[str, Any]
    composed: "SQL"
    mode: str
    flags: tuple[Flag, ...] = ()

    def __str__(self) -> str:
        return self.sql
