"""What posting lists speak about. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A set of chunks; `ids` are theirs, one after the other."""

    id: int
    chunks: int
    listed: bool


@dataclass(frozen=True, slots=True)
class Posting:
    """Where in a segment a term occurs, and how often.

    Attributes:
        places: two bytes for each chunk that has the term; None: `counts` has a byte for every chunk of the segment.
        counts: a byte each; 255 stands for that often or more.
    """

    places: bytes | None
    counts: bytes


@dataclass(frozen=True, slots=True)
class Lists:
    """What a search reads of one segment: its chunks' lengths (two bytes each), and the postings by term."""

    segment: int
    lengths: bytes
    terms: Mapping[int, Posting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a collection's chunks lie: the listed segments, and the length that weights are normalised by now. `strays`:
    some chunks may be in no segment and no delta."""

    segments: list[int]
    pivot: float
    strays: bool


@dataclass(frozen=True, slots=True)
class Written:
    """The lists of a new segment: for each term how many bytes are its in `places` (0: none) and in `counts`."""

    terms: list[int]
    places: bytes
    place_sizes: list[int]
    counts: bytes
    count_sizes: list[int]


@dataclass(frozen=True, slots=True)
class Places:
    """Chunks by where they are: the segment of each, and its place in it."""

    segments: list[int]
    places: list[int]
