"""Makes posting lists of chunks, and scores chunks by them. Arithmetic on arrays, no I/O."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..bm25 import K1, B
from .models import Lists, Places, Written

Floats: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.int64]

_FULL = 255  # a count that stands for that often or more
_HEAD = 3  # words of a sparsevec before its terms: dimensions, how many there are, nothing
_BLOCK = 64
_TINY = 1e-30


def write(lengths: Sequence[int], pivots: Sequence[float], vectors: Sequence[bytes]) -> Written:
    """The lists of chunks, by the weights in their rows as `sparsevec_send` gives them. Places follow their order."""
    terms, places, weights = _unpack(vectors)
    norms = _norms(np.array(lengths, np.float64), np.array(pivots, np.float64))[places]
    # The weight is tf · (K1 + 1) / (tf + norm); one of K1 + 1 stands for a tf without end.
    with np.errstate(divide="ignore"):
        counts = np.rint(weights * norms / np.maximum(K1 + 1 - weights, 0)).clip(1, _FULL).astype(np.uint8)
    order = np.argsort(terms, kind="stable")
    terms, places, counts = terms[order], places[order], counts[order]
    begins = np.flatnonzero(np.diff(terms, prepend=-1))
    sizes = np.diff(begins, append=len(terms))
    dense = sizes * 3 >= len(lengths)  # a byte for each chunk takes less room then
    sparse = np.repeat(~dense, sizes)
    kept = sizes[~dense]
    spread = [_spread(places[at : at + size], counts[at : at + size], len(lengths))
              for at, size in zip(begins[dense], sizes[dense], strict=True)]  # fmt: skip
    tails = np.minimum(np.array(lengths), 0xFFFF).astype("<u2").tobytes()
    count_sizes = [*kept.tolist(), *map(len, spread), len(tails)]
    place_sizes = [*(2 * kept).tolist(), *[0] * (len(spread) + 1)]
    return Written(
        terms=[*terms[begins[~dense]].tolist(), *terms[begins[dense]].tolist(), 0],
        places=places[sparse].astype("<u2").tobytes(),
        place_sizes=place_sizes,
        counts=b"".join([counts[sparse].tobytes(), *spread, tails]),
        count_sizes=count_sizes,
    )


def _unpack(vectors: Sequence[bytes]) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
    """Of every weight in every vector: the term, the place of the vector, and the weight."""
    words = np.frombuffer(b"".join(vectors), ">i4")
    sizes = np.array([len(vector) // 4 for vector in vectors])
    counts = (sizes - _HEAD) // 2
    places = np.repeat(np.arange(len(vectors)), counts)
    within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = np.repeat(np.cumsum(sizes) - sizes + _HEAD, counts) + within
    weights = words[at + np.repeat(counts, counts)].view(">f4")
    return words[at].astype(np.int64) + 1, places, weights.astype(np.float64)


def _spread(places: Numbers, counts: NDArray[np.uint8], size: int) -> bytes:
    every = np.zeros(size, np.uint8)
    every[places] = counts
    return every.tobytes()


def _norms(lengths: NDArray[np.float64], pivots: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return K1 * (1 - B + B * lengths / pivots)


class Board:
    """Scores of all listed chunks for one query; hands out the best first, each once.

    A score is right to the digits that weights are stored with, or too high where a count is full.
    """

    def __init__(self, lists: Sequence[Lists], weights: Mapping[int, float], pivot: float) -> None:
        self._segments = np.array([one.segment for one in lists])
        self._begins = np.cumsum([0, *(len(one.lengths) // 2 for one in lists)])
        self._scores: Floats = np.zeros(self._begins[-1], np.float32)
        for one, begin in zip(lists, self._begins[:-1], strict=True):
            _score(one, weights, pivot, self._scores[begin:])

    def best(self) -> float:
        """The most that a chunk scores which was not handed out; 0: there is none."""
        return float(self._scores.max(initial=0))

    def take(self, count: int) -> Places:
        """The best `count` chunks that were not handed out."""
        least = max(_least(self._scores, count), _TINY)
        found = np.flatnonzero(self._scores >= least)
        found = found[np.argsort(-self._scores[found], kind="stable")[:count]]
        self._scores[found] = 0
        which = np.searchsorted(self._begins, found, side="right") - 1
        return Places(self._segments[which].tolist(), (found - self._begins[which]).tolist())


def size(lists: Sequence[Lists]) -> int:
    """Bytes in these lists."""
    return sum(len(posting.places or b"") + len(posting.counts) for one in lists for posting in one.terms.values())


def _least(scores: Floats, count: int) -> float:
    """A score that at least `count` others reach (if so many are above 0), and few more than that."""
    blocks = len(scores) // _BLOCK
    if blocks < 2 * count:
        return 0 if len(scores) <= count else float(np.partition(scores, len(scores) - count)[len(scores) - count])
    # So many blocks have a chunk that good. Cheaper than to order all.
    tops = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return float(np.partition(tops, blocks - count)[blocks - count])


def _score(lists: Lists, weights: Mapping[int, float], pivot: float, scores: Floats) -> None:
    """Adds to the first of `scores` what the chunks of one segment score."""
    lengths = np.frombuffer(lists.lengths, "<u2")
    scores = scores[: len(lengths)]
    norms = lengths.astype(np.float32)
    norms *= K1 * B / pivot
    norms += K1 * (1 - B)
    for term, posting in lists.terms.items():
        counts = np.frombuffer(posting.counts, np.uint8).astype(np.float32)
        counts[counts == _FULL] = 1e9
        places = slice(None) if posting.places is None else np.frombuffer(posting.places, "<u2")
        gained = counts + norms[places]
        np.divide(counts, gained, out=gained)
        gained *= weights[term] * (K1 + 1)
        scores[places] += gained
