"""What indexes over vectors speak about. No I/O."""

from dataclasses import dataclass
from datetime import datetime

from ...kernel.errors import Conflict
from ..models import IndexKind


class IndexImpossible(Conflict):
    """The kind does not go with the vectors of the space."""

    code, title = "index_impossible", "The vectors cannot have that index"


@dataclass(frozen=True, slots=True)
class IndexState:
    """The index of a space as it stands.

    Attributes:
        wish: what was asked for.
        kind: what stands and is searched, None: nothing; `lists` of an ivfflat index.
        filling: chunks are being taken up that get vectors here: an index waits for that.
        rows: about how many vectors of all tenants there are; `built_rows` of them when the index was built, in
            `built_seconds`.
        table_bytes: of the vectors, without indexes.
        cache_bytes: what the server says that it can keep in memory (`effective_cache_size`).
    """

    space: int
    collection: str
    model: str
    dimensions: int | None
    wish: IndexKind
    kind: IndexKind | None
    lists: int | None
    indexed_at: datetime | None
    filling: bool
    rows: int
    built_rows: int | None
    built_seconds: float | None
    table_bytes: int
    cache_bytes: int

    @property
    def standing(self) -> IndexKind:
        return self.kind or IndexKind.NONE


@dataclass(frozen=True, slots=True)
class Build:
    """A build that is under way, or has failed with `error`. `share` of the table is in the index, from 0 to 1; None in
    phases that do not tell."""

    kind: IndexKind
    phase: str
    share: float | None
    started_at: datetime
    seen_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """An index of a table, with the lists of an ivfflat one. One that is not `valid` serves no search."""

    name: str
    kind: IndexKind
    valid: bool
    lists: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an operator should know of a space's vectors, and what to do about it."""

    code: str
    space: int
    collection: str
    detail: str
    mend: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What the index of a space is, what it should be, and what that takes. Sizes in bytes, all of them estimates.

    Attributes:
        recommended: what suits the vectors there are, whatever was asked for.
        index_bytes: of the recommended index on disk; `build_bytes`: memory that its build asks for.
        build_seconds: how long the build takes, from the last one on this server, else from a machine with two cores.
        build: one that is under way or has failed.
    """

    state: IndexState
    recommended: IndexKind
    lists: int | None
    index_bytes: int
    build_bytes: int
    build_seconds: float
    build: Build | None
    findings: tuple[Finding, ...] = ()
