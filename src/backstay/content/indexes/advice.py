"""Which index suits how many vectors, and what it takes. Arithmetic on what pgvector keeps, and on measurements."""

from dataclasses import dataclass
from math import isqrt

from ..models import IndexKind
from .models import Finding, IndexState

AUTO_ROWS = 20_000  # below it an exact scan is as fast
LEAST_ROWS = 5_000  # so few vectors of a tenant are always looked at one by one: no search would use an index
MANY_ROWS = 10_000_000
LARGE_SCAN = 50_000  # so many vectors looked at one by one take tens of milliseconds
HNSW_DIMENSIONS = 4_000  # the most that HNSW and IVFFlat take of halfvec; one bit for each is always taken
M, EF_CONSTRUCTION = 16, 64
_MAX_LISTS = 32_768
_SAMPLES = 50  # vectors that IVFFlat's training looks at for each list
_STALE = 5  # times as many vectors as the lists were chosen for


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From how many vectors on `auto` builds an index (`auto_rows`), and any other wish (`least_rows`)."""

    auto_rows: int = AUTO_ROWS
    least_rows: int = LEAST_ROWS


def fitting(state: IndexState, rows: int, thresholds: Thresholds) -> IndexKind:
    """The kind that should stand now. One that stands is kept when vectors become fewer."""
    if state.dimensions is None or state.wish is IndexKind.NONE:
        return IndexKind.NONE
    if rows < (thresholds.auto_rows if state.wish is IndexKind.AUTO else thresholds.least_rows):
        return state.standing
    if state.wish is IndexKind.AUTO:
        return _suiting(state, rows)
    return state.wish if possible(state.wish, state.dimensions) else IndexKind.NONE


def recommended(state: IndexState, rows: int, thresholds: Thresholds) -> IndexKind:
    """The kind that suits, whatever was asked for."""
    if state.dimensions is None or rows < thresholds.auto_rows:
        return IndexKind.NONE
    return _suiting(state, rows)


def _suiting(state: IndexState, rows: int) -> IndexKind:
    dimensions = state.dimensions or 0
    # One that had to be small stays so until there is room to spare: else a few rows would have it built to and fro.
    room = state.cache_bytes * (0.8 if state.kind is IndexKind.BINARY else 1)
    too_large = index_bytes(IndexKind.HNSW, rows, dimensions) > room
    return IndexKind.BINARY if too_large or not possible(IndexKind.HNSW, dimensions) else IndexKind.HNSW


def possible(kind: IndexKind, dimensions: int | None) -> bool:
    """Whether pgvector can index so many dimensions in that way."""
    return kind not in (IndexKind.HNSW, IndexKind.IVFFLAT) or (dimensions or 0) <= HNSW_DIMENSIONS


def index_bytes(kind: IndexKind, rows: int, dimensions: int) -> int:
    """About how large the index is on disk."""
    vector = {IndexKind.HNSW: dimensions * 2, IndexKind.IVFFLAT: dimensions * 2, IndexKind.BINARY: dimensions // 8}
    beside = 80 if kind is IndexKind.IVFFLAT else 310  # links to neighbours, headers
    return 0 if kind not in vector else int(rows * (vector[kind] + beside) * 1.1)


def build_bytes(kind: IndexKind, rows: int, dimensions: int, lists: int | None = None) -> int:
    """Memory with which the build never has to go to disk: what it holds, and a third on top."""
    if kind is IndexKind.IVFFLAT:
        return int(_training_bytes(lists or lists_for(rows), dimensions) * 1.3)
    vector = dimensions // 8 if kind is IndexKind.BINARY else dimensions * 2
    return 0 if kind not in (IndexKind.HNSW, IndexKind.BINARY) else int(rows * (vector + 400) * 1.3)


def lists_for(rows: int, *, dimensions: int = 0, memory: int | None = None) -> int:
    """How many lists an IVFFlat index over so many vectors has: no more than can be trained in `memory` bytes."""
    lists = min(max(rows // 1_000 if rows <= 1_000_000 else isqrt(rows), 10), _MAX_LISTS)
    while memory is not None and lists > 10 and _training_bytes(lists, dimensions) * 1.3 > memory:
        lists = max(lists * 9 // 10, 10)
    return lists


def probes_for(lists: int) -> int:
    """How many lists a search looks into: all of a few, and few of many."""
    return min(lists, max(16, 3 * isqrt(lists)))


def _training_bytes(lists: int, dimensions: int) -> int:
    # k-means keeps the sample, three sets of centres, the distances between them and a bound of each sample to each.
    samples = max(lists * _SAMPLES, 10_000)
    return samples * (dimensions * 2 + 8) + 3 * lists * dimensions * 4 + lists * lists * 4 + samples * lists * 4


def build_seconds(kind: IndexKind, state: IndexState, rows: int) -> float:
    """How long a build takes: as the last one of that kind did on this server, else as on two cores."""
    if state.kind is kind and state.built_rows and state.built_seconds:
        return rows * state.built_seconds / state.built_rows
    thousand = (state.dimensions or 0) / 1_000
    each = {
        IndexKind.HNSW: 0.00025 + 0.0006 * thousand,
        IndexKind.BINARY: 0.0004,
        IndexKind.IVFFLAT: 0.00002 + 0.0001 * thousand,
    }
    return rows * each.get(kind, 0.0)


def findings(state: IndexState, rows: int, thresholds: Thresholds) -> list[Finding]:
    """What an operator should know of a space's vectors."""
    found: list[Finding] = []

    def tell(code: str, detail: str, mend: str) -> None:
        found.append(Finding(code, state.space, state.collection, detail, mend))

    where = f"space {state.space} of {state.collection}"
    if state.dimensions is not None and state.kind is None and rows >= max(LARGE_SCAN, thresholds.auto_rows):
        tell(
            "vectors_without_index",
            f"{where} has about {rows} vectors and no index: a search of a tenant that has many looks at each of them",
            f"backstay spaces index {state.collection} --space {state.space} --kind auto",
        )
    if rows >= MANY_ROWS:
        tell(
            "many_vectors",
            f"{where} has about {rows} vectors, more than the {MANY_ROWS:,} up to which one table is easy to keep",
            "split the collection, archive what is old, or give the server memory for a binary index",
        )
    size = index_bytes(state.kind, rows, state.dimensions or 0) if state.kind else 0
    if size > state.cache_bytes:
        tell(
            "index_exceeds_memory",
            f"the {state.kind} index of {where} takes about {size >> 20} MB, the server's effective_cache_size is "
            f"{state.cache_bytes >> 20} MB",
            "set effective_cache_size to what the server has, or choose the binary index",
        )
    if state.kind is IndexKind.IVFFLAT and state.built_rows and rows > _STALE * state.built_rows:
        tell(
            "lists_outgrown",
            f"the ivfflat index of {where} was trained on about {state.built_rows} vectors and has {rows} now",
            f"backstay spaces index {state.collection} --space {state.space} --kind ivfflat --rebuild",
        )
    return found
