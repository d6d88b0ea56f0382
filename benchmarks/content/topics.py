"""Vectors about topics, the same in every run, and what is nearest to what by the plainest of means.

Drawn around 200 centres, as texts about topics would lie; queries are drawn around the same ones, and `others` around
centres of their own, far from every query. The number at the end of a text decides its vector.
"""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil

from backstay.content import Collection, CollectionNotFound
from backstay.gateway import Embeddings

Vectors = np.ndarray[Any, np.dtype[np.float32]]
GROUPS = 100  # a filter on one of them leaves 1 % of the vectors
_CENTRES, _SPREAD = 200, 0.7


class Topics:
    """An embedder at no cost: `topic 7`, `query 7` and `other 7` have the seventh vector of their kind."""

    def __init__(self, count: int, dimensions: int, queries: int, others: int = 0) -> None:
        draw = np.random.default_rng(11)
        centres, far = draw.standard_normal((2, _CENTRES, dimensions), dtype=np.float32)
        self.topics = _around(draw, centres, count)
        self.queries = _around(draw, centres, queries)
        self.others = _around(draw, far, others)
        self._kinds = {"topic": self.topics, "query": self.queries, "other": self.others}

    async def embed(self, by: Any, model: str, inputs: Sequence[str], **_: Any) -> Embeddings:
        return Embeddings([self._of(text) for text in inputs], len(inputs), Decimal(0), model)

    async def embedding_cost(self, by: Any, model: str, tokens: int, requests: int) -> Decimal:
        return Decimal(0)

    def nearest(self, k: int, group: int | None = None) -> list[list[str]]:
        """The ids of the `k` nearest topics of each query, every one looked at in single precision."""
        among = self.topics if group is None else self.topics[group::GROUPS]
        found = np.argsort(-(self.queries @ among.T), axis=1)[:, :k]
        return [[str(n if group is None else n * GROUPS + group) for n in row] for row in found.tolist()]

    def save(self, folder: Path) -> None:
        """For the other sides, which run in interpreters of their own."""
        np.save(folder / "topics.npy", self.topics)
        np.save(folder / "queries.npy", self.queries)

    def _of(self, text: str) -> list[float]:
        kind, number = text.split(" ")[-2:]
        vector: list[float] = self._kinds[kind][int(number)].tolist()
        return vector


def _around(draw: np.random.Generator, centres: Vectors, count: int) -> Vectors:
    vectors = centres[draw.integers(len(centres), size=count)]
    vectors += _SPREAD * draw.standard_normal(vectors.shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recall(wanted: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """The share of the nearest that was found."""
    return sum(len(set(a) & set(b)) for a, b in zip(wanted, found, strict=True)) / sum(map(len, wanted))


async def embedded(collection: Collection, tenant: UUID) -> int:
    """How many chunks have their vector; 0 also before the first document."""
    try:
        return (await collection.coverage(tenant)).embedded
    except CollectionNotFound:
        return 0


def introduce() -> None:
    """What a figure has to be read with."""
    memory = psutil.virtual_memory().total >> 30
    print(f"machine   {os.cpu_count()} cores, {memory} GB, Python {platform.python_version()}")
    print(f"command   python {shlex.join(sys.argv)}")
    print(f"load      {os.getloadavg()[0]:.1f} at the start, nice {os.nice(0)}", flush=True)
