"""What a change of models speaks about. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from ...kernel.errors import Conflict, NotFound
from ..models import IndexKind


class SpaceState(StrEnum):
    """`building`: gets vectors, is not searched. `active`: is searched. `standby`: was searched, and is kept up to date
    for going back. `retired`: its vectors are deleted."""

    BUILDING = "building"
    ACTIVE = "active"
    STANDBY = "standby"
    RETIRED = "retired"


class SpaceNotFound(NotFound):
    code, title = "space_not_found", "The collection has no such space"


class MigrationRunning(Conflict):
    """One change of models at a time, and to another model than the present one."""

    code, title = "migration_running", "The collection cannot begin this change of models"


class SpaceNotReady(Conflict):
    """The gate is closed: searching that space now would find less than before."""

    code, title = "space_not_ready", "The space is not ready to be searched"


class SpaceBusy(Conflict):
    """A transaction that writes to the collection has been open for seconds, and the change must wait for it."""

    code, title = "space_busy", "The collection is being written by a long transaction"


@dataclass(frozen=True, slots=True)
class MigrationPreview:
    """What giving every chunk a vector of `model` takes. `tokens` are estimated; `cost` is in USD."""

    model: str
    chunks: int
    tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class SpaceStanding:
    """A space of a collection and how far it is.

    Attributes:
        dimensions: None until the model has answered once.
        chunks: chunks of the collection; `embedded` of them have a vector here, `pending` wait, `parked` are refused.
        since: when it came into its state; None when the collection never changed its model.
        index: which kind stands, None: nothing; `lists` of an ivfflat one; `index_wish` is what was asked for.
        build: the kind that is being built, in `build_phase`; `build_share` of the vectors is in it, None in phases
            that do not tell. `build_error`: it failed and is tried again.
    """

    id: int
    model: str
    state: SpaceState
    dimensions: int | None
    indexed_at: datetime | None
    since: datetime | None
    chunks: int = 0
    embedded: int = 0
    pending: int = 0
    parked: int = 0
    index_wish: str = IndexKind.AUTO
    index: str | None = None
    lists: int | None = None
    build: str | None = None
    build_phase: str | None = None
    build_share: float | None = None
    build_error: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Documents that a query should find: ids with grades from 1 to 10, the higher the better."""

    query: str
    relevant: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recall:
    """How much of the `k` nearest vectors a search finds, from 0 to 1, over `queries` vectors of the space itself.
    `exact`: every vector is looked at, so that nothing can be missed."""

    space: int
    recall: float
    queries: int
    k: int
    exact: bool
