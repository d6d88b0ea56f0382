"""Answers of requests that differ in nothing but the words of their last user turn."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from ...kernel import telemetry
from ...kernel.cache import MAX_VALUE
from ...kernel.db import Database
from ...kernel.errors import BackstayError
from . import store
from .models import Embedder, Hit
from .question import Question
from .seal import Seal

EMBED_LIMIT = 2.0  # seconds: a look into the cache is to save time
MOST_COMPARED = 1_000  # rows of one tenant and digest
_MAX_DIMENSIONS = 16_000
_log = telemetry.log("answers")


class Nearby:
    """One request's neighbourhood. Its vector is made when it is first needed, once, with no connection held."""

    def __init__(self, db: Database, tenant: UUID, seal: Seal, question: Question, embedder: Embedder) -> None:
        self._db, self._tenant, self._seal, self._embedder = db, tenant, seal, embedder
        self._words: str | None
        self._rest, self._words = question.parted() or (b"", None)
        self._vector: list[float] | None = None

    async def find(self, threshold: float, since: datetime, now: datetime) -> Hit | None:
        """The nearest answer that was kept at `since` or later and is at least as near as `threshold`."""
        if (vector := await self._embedded()) is None:
            return None
        try:
            async with self._db.tenant_tx(self._tenant) as tx:
                near = await store.nearest(tx, self._tenant, self._digest(vector), vector, threshold, since, now)
        except (store.DatabaseError, BackstayError) as error:
            _log.warning("answers of near requests cannot be read", error=str(error))
            return None
        if near is None or (hit := self._seal.open(near.key, near.answer, now)) is None:
            return None
        return replace(hit, found="semantic", similarity=near.similarity)

    async def keep(self, key: bytes, sealed: bytes, now: datetime, expires_at: datetime) -> bool:
        """Keeps the answer for near requests to come; False when it could not be kept."""
        if len(sealed) > MAX_VALUE or (vector := await self._embedded()) is None:
            return False
        rest = self._digest(vector)
        try:
            async with self._db.tenant_tx(self._tenant) as tx:
                await store.keep(tx, self._tenant, rest, key, vector, sealed, now, expires_at)
            async with self._db.tenant_tx(self._tenant) as tx:
                await store.trim(tx, self._tenant, rest, MOST_COMPARED)
        except (store.DatabaseError, BackstayError) as error:
            _log.warning("an answer could not be kept for near requests", error=str(error))
            return False
        return True

    def _digest(self, vector: Sequence[float]) -> bytes:
        """Equal for all whose vectors can be compared with this one, and who ask the same but for the words."""
        return self._seal.digest(f"rest {self._embedder.model} {len(vector)}", self._rest)

    async def _embedded(self) -> list[float] | None:
        if self._words is not None:
            words, self._words = self._words, None  # once, whatever comes of it
            self._vector = await self._embed(words)
        return self._vector

    async def _embed(self, words: str) -> list[float] | None:
        try:
            async with asyncio.timeout(EMBED_LIMIT):
                return _unit(await self._embedder.embed(words))
        except (BackstayError, TimeoutError) as error:
            code = error.code if isinstance(error, BackstayError) else "timed_out"
            _log.warning("no embedding, so near requests are not looked for", model=self._embedder.model, code=code)
            return None


def _unit(vector: Sequence[float]) -> list[float] | None:
    """The vector with length 1; None when it has no direction, or more dimensions than can be stored."""
    length = math.sqrt(sum(value * value for value in vector))
    if not 0 < length < math.inf or len(vector) > _MAX_DIMENSIONS:
        return None
    return [value / length for value in vector]
