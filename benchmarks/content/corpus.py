"""A large collection of made-up text, loaded by COPY into the room's own tables.

Words are drawn by Zipf's law from a vocabulary of 500,000, about 80 to a chunk, and there is one chunk to a document.
Word `w0` is in nearly every chunk, `w14` in a third of them, half of the vocabulary in a handful of each million.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import psycopg

from backstay.content.bm25 import K1, B
from backstay.content.tokens import DIMENSIONS, number
from backstay.kernel.ids import new_id

VOCABULARY, WORDS, SPREAD, BATCH = 500_000, 80, 25, 10_000
PIVOT = float(WORDS)
_CONTENT = "content (tenant_id, collection, id, rev, body, body_hash, text_hash, created_at, updated_at)"
_CHUNK = "chunk (tenant_id, id, collection, content_id, ord, heading, text, text_hash, length, tokens, pivot, bm)"


class Corpus:
    """Draws texts, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        chances = 1 / (np.arange(VOCABULARY) + 1.0)
        self._sums = np.cumsum(chances / chances.sum())

    def ranks(self, count: int) -> list[int]:
        """Words by their rank, the commonest first: rank 0 is the word `w0`."""
        drawn: list[int] = np.searchsorted(self._sums, self._draw.random(count)).clip(max=VOCABULARY - 1).tolist()
        return drawn

    def texts(self, count: int) -> Iterator[list[int]]:
        lengths = self._draw.normal(WORDS, SPREAD, count).clip(min=10).astype(int).tolist()
        ranks, at = self.ranks(sum(lengths)), 0
        for length in lengths:
            yield ranks[at : at + length]
            at += length


def text(ranks: Iterable[int]) -> str:
    return " ".join(f"w{rank}" for rank in ranks)


def body(n: int, words: str) -> dict[str, Any]:
    """Filters can let through one document in ten, in a hundred, in ten thousand."""
    return {"text": words, "tenth": n % 10, "hundredth": n % 100, "lot": n % 10_000}


def load(url: str, tenant: UUID, collection: str, count: int) -> None:
    """Documents, chunks and statistics, as if they had been put and folded, into a collection that stands already."""
    corpus, numbers = Corpus(5), [number(f"w{rank}") for rank in range(VOCABULARY)]
    frequencies: Counter[int] = Counter()
    total, now = 0, datetime.now(UTC)
    with psycopg.connect(url) as connection:
        # No checks of foreign keys: every document is there before its chunks.
        connection.execute("set session_replication_role = replica")
        for start in range(0, count, BATCH):
            documents, chunks = [], []
            for n, ranks in enumerate(corpus.texts(min(BATCH, count - start)), start):
                counts = Counter([numbers[rank] for rank in ranks])
                frequencies.update(counts.keys())
                total += len(ranks)
                words, length = text(ranks), len(ranks)
                digest = hashlib.sha256(words.encode()).digest()
                stored = orjson.dumps(body(n, words)).decode()
                documents.append((tenant, collection, f"d{n}", 1, stored, digest, digest, now, now))
                pairs = ",".join([f"{term}:{_weight(tf, length)}" for term, tf in counts.items()])
                bm = f"{{{pairs}}}/{DIMENSIONS}"
                row = (tenant, new_id(), collection, f"d{n}", 0, "{}", words, digest, length, length * 2, PIVOT, bm)
                chunks.append(row)
            _copy(connection, _CONTENT, documents)
            _copy(connection, _CHUNK, chunks)
            connection.commit()
        _copy(
            connection,
            "bm_term (tenant_id, collection, term, chunks)",
            ((tenant, collection, term, chunks_) for term, chunks_ in frequencies.items()),
        )
        connection.execute(
            "update backstay.collection set chunks = %s, length = %s, pivot = %s where tenant_id = %s and name = %s",
            [count, total, PIVOT, tenant, collection],
        )
        connection.commit()
        connection.autocommit = True
        for table in ("content", "chunk", "bm_term", "collection"):
            connection.execute(f"vacuum analyze backstay.{table}")


@cache
def _weight(tf: int, length: int) -> str:
    """As `Bag.weights` writes it."""
    return f"{tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / PIVOT)):.6g}"


def _copy(connection: psycopg.Connection[Any], target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"copy backstay.{target} from stdin") as copy:
        for row in rows:
            copy.write_row(row)
