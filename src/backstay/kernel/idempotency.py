"""`Idempotency-Key` on unsafe requests: the answer commits with the effect, and is given again for 24 hours.

A request in flight holds an advisory lock that ends with its transaction, so a crash leaves nothing behind: neither
the effect, nor the answer, nor a key stuck as "in flight".
"""

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Error

from . import sql, telemetry
from .clock import Clock
from .crypto import Vault
from .db import Database, Tx
from .errors import BackstayError, BadRequest, Conflict, Invalid
from .principal import Principal

KEPT_FOR = timedelta(hours=24)
_MAX_KEY = 255
_BATCH = 1000
_PRUNE_EVERY, _MORE_AFTER = 600.0, 0.1  # seconds
_log = telemetry.log("idempotency")
_queries = sql.load(__package__)


class InFlight(Conflict):
    code, title = "idempotency_in_flight", "A request with this Idempotency-Key is being answered"


class KeyReused(Invalid):
    code, title = "idempotency_key_reused", "The Idempotency-Key was used for another request"


@dataclass(frozen=True, slots=True)
class Answer:
    """A committed answer: HTTP status and JSON body."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Standing:
    body_hash: bytes
    status: int
    answer: bytes


class Attempt:
    """One request with an idempotency key."""

    def __init__(self, by: Principal, key: str, request: bytes, vault: Vault, now: datetime) -> None:
        if not 0 < len(key) <= _MAX_KEY or not key.isprintable():
            raise BadRequest(f"Idempotency-Key must have 1 to {_MAX_KEY} printable characters")
        # Two principals of a tenant never see each other's answers.
        self._scope = {"tenant_id": by.tenant, "key": f"{by.id}:{key}"}
        self._hash = hashlib.sha256(request).digest()
        self._vault, self._now = vault, now
        self._context = f"idempotency:{by.tenant}:{by.id}:{key}".encode()

    async def standing(self, tx: Tx) -> Answer | None:
        """The answer that an earlier, equal request committed; takes the key for this transaction if there is none.

        Raises:
            InFlight: another request holds the key now (409).
            KeyReused: the key stands for a request with other content (422).
        """
        if not await _queries.try_lock_key.value(tx, **self._scope):
            raise InFlight("another request with this key is in flight; repeat when it has been answered")
        row = await _queries.standing_answer.maybe(tx, _Standing, now=self._now, **self._scope)
        if row is None:
            return None
        if row.body_hash != self._hash:
            raise KeyReused("this key was used with another method, path or body; use a new key")
        return Answer(row.status, self._vault.open(row.answer, self._context))

    async def keep(self, tx: Tx, answer: Answer) -> None:
        """Stores the answer; it commits with the effect."""
        await _queries.keep_answer.run(
            tx,
            **self._scope,
            body_hash=self._hash,
            status=answer.status,
            answer=self._vault.seal(answer.body, self._context),
            expires_at=self._now + KEPT_FOR,
        )


async def prune(tx: Tx, now: datetime, limit: int = _BATCH) -> int:
    """Deletes expired answers; returns how many."""
    return await _queries.prune_answers.run(tx, now=now, limit=limit)


async def keep(db: Database, clock: Clock, ending: asyncio.Event) -> None:
    """Prunes now and then until `ending` is set; every process may run it."""
    while not ending.is_set():
        try:
            async with db.system_tx() as tx:
                full = await prune(tx, clock.now()) == _BATCH
        except (Error, BackstayError) as error:
            _log.warning("expired answers stay until the next round", error=str(error))
            full = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_MORE_AFTER if full else _PRUNE_EVERY):
                await ending.wait()
