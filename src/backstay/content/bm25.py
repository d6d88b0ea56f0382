"""BM25 as an inner product: the document's side is a sparse vector in its row, the query's side is made per query.

score(q, d) = Σ over the query's terms of  idf(t) · qf(t)  ×  tf(t, d) · (K1 + 1) / (tf(t, d) + K1 · norm(d))
norm(d) = 1 - B + B · length(d) / pivot, with idf(t) = ln(1 + (N - df(t) + ½) / (df(t) + ½))

The first factor is the query's weight, the second the document's. `pivot` stands for the mean chunk length: it moves in
steps, and chunks are weighed anew when it has moved (see statistics.py), because it is part of what rows store.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .tokens import DIMENSIONS, number, query_terms, terms

K1, B = 1.5, 0.75
MAX_NONZERO = 16_000  # what a sparsevec may hold


@dataclass(frozen=True, slots=True)
class Bag:
    """A text as BM25 sees it: how often each term (by number) occurs, and how many terms there are."""

    counts: Mapping[int, int]
    length: int

    @classmethod
    def of(cls, text: str) -> "Bag":
        found = terms(text)
        counts = Counter(map(number, found))
        if len(counts) > MAX_NONZERO:  # a chunk has at most 8,000 characters and a heading; a guard, not a case
            counts = Counter(dict(counts.most_common(MAX_NONZERO)))
        return cls(counts, len(found))

    def weights(self, pivot: float) -> str:
        """The document's side, as a sparsevec literal."""
        norm = K1 * (1 - B + B * self.length / pivot)
        return literal({term: tf * (K1 + 1) / (tf + norm) for term, tf in self.counts.items()})


def wanted(query: str) -> dict[int, int]:
    """How often each term, by number, is in the query."""
    return dict(Counter(map(number, query_terms(query))))


def idf(chunks: int, frequency: int) -> float:
    """How much a term weighs that so many of the chunks have."""
    return math.log(1 + (max(chunks - frequency, 0) + 0.5) / (frequency + 0.5))


def query_weights(wanted: Mapping[int, int], frequencies: Mapping[int, int], chunks: int) -> dict[int, float]:
    """The query's side: what each term weighs. Terms that no chunk has weigh nothing and are left out."""
    weights = {}
    for term, count in wanted.items():
        frequency = frequencies.get(term, 0)
        if frequency > 0:
            weights[term] = count * idf(chunks, frequency)
    return weights


def literal(weights: Mapping[int, float]) -> str:
    """A sparsevec as Postgres reads it."""
    inside = ",".join(f"{term}:{weight:.6g}" for term, weight in sorted(weights.items()))
    return f"{{{inside}}}/{DIMENSIONS}"


def numbers(sparsevec: str) -> Iterable[int]:
    """The term numbers in a sparsevec literal."""
    inside = sparsevec[1 : sparsevec.rindex("}")]
    return (int(pair.split(":", 1)[0]) for pair in inside.split(",")) if inside else ()
