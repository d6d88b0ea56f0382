"""A cache: bytes under a tenant and a key, for a time. What it forgets, nobody may miss.

One interface over two stores (`cache_postgres`, `cache_redis`), with an LRU of this process in front. A store that is
away is a miss: nothing waits for it, and nothing fails because of it. Values are kept as they are given: seal what is
secret before you hand it in.
"""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from . import telemetry
from .clock import Clock
from .errors import Conflict, FieldError, Invalid

MAX_KEY, MAX_VALUE = 512, 4 * 1024 * 1024  # characters, bytes
MAX_TTL = 366 * 24 * 3600.0
MAX_COUNT = 2**53 - 1  # Redis counts in doubles
FRONT_BYTES = 16 * 1024 * 1024
FRESH = 5.0
_OVERHEAD = 400  # bytes that an entry takes beside its key and value; measured at 320
_reads = telemetry.counter("backstay_cache_reads_total", "Look-ups in the cache.", ["layer", "outcome"])
_front_hits = _reads.labels("front", "hit")


class NotACount(Conflict):
    code, title = "not_a_count", "What is cached under the key is not a count"


class Away(Exception):
    """The store does not answer for now. It never leaves the cache."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and when it ends."""

    value: bytes
    expires_at: datetime


class Store(Protocol):
    """Where entries are kept. Arguments are checked; each method raises Away instead of waiting or failing."""

    name: str

    async def find(self, tenant: UUID, key: str, now: datetime) -> Entry | None:
        """The entry, unless it has ended at `now`."""
        ...

    async def keep(self, tenant: UUID, key: str, entry: Entry, now: datetime) -> None: ...

    async def drop(self, tenant: UUID, key: str) -> None: ...

    async def count(self, tenant: UUID, key: str, by: int, expires_at: datetime, now: datetime) -> int | None:
        """The count after adding `by`, in one step; None when the value is no count or would pass MAX_COUNT."""
        ...

    async def tend(self, ending: asyncio.Event) -> None:
        """What has to be done now and then, until `ending` is set."""
        ...

    async def close(self) -> None: ...


class Cache:
    """The cache of one process.

    The front holds a copy of what was read here for at most FRESH seconds. So after a `set` or `delete` in one process,
    another one may still answer with its own copy for that long. Never cache what must be revoked at once.
    `front_bytes` bounds the front; 0 does without one.
    """

    def __init__(self, store: Store, clock: Clock, *, front_bytes: int = FRONT_BYTES) -> None:
        self._store, self._clock = store, clock
        self._front = Lru(front_bytes)
        self._reading: dict[tuple[UUID, str], object] = {}
        self._hits, self._misses = _reads.labels(store.name, "hit"), _reads.labels(store.name, "miss")
        self._away = _reads.labels(store.name, "away")

    async def get(self, tenant: UUID, key: str) -> bytes | None:
        """The value, or None: never set, ended, forgotten, or the store is away.

        Raises:
            Invalid: the key is empty, longer than MAX_KEY, or not printable (422). So do all methods.
        """
        place = _place(tenant, key)
        now = self._clock.now()
        held = self._front.get(place, now)
        if held is not None:
            _front_hits.inc()
            return held
        # Another task may write under this key while the store is read: then what was read may be old already.
        token = self._reading[place] = object()
        try:
            entry = await self._store.find(tenant, key, now)
        except Away:
            self._away.inc()
            return None
        finally:
            current = self._reading.get(place) is token
            if current:
                del self._reading[place]
        if entry is None:
            self._misses.inc()
            return None
        self._hits.inc()
        if current:
            self._front.put(place, entry.value, min(entry.expires_at, now + timedelta(seconds=FRESH)))
        return entry.value

    async def set(self, tenant: UUID, key: str, value: bytes, ttl: float) -> bool:
        """Keeps `value` for `ttl` seconds. False when it was not kept (the store is away, or it is larger than
        MAX_VALUE): then an older value may still be found.

        Raises:
            Invalid: `ttl` is not above 0, or above MAX_TTL (422).
        """
        place = _place(tenant, key)
        now = self._clock.now()
        entry = Entry(value, _end(now, ttl))
        if len(value) > MAX_VALUE:
            return False
        try:
            await self._store.keep(tenant, key, entry, now)
        except Away:
            return False
        finally:
            self._forget(place)
        return True

    async def delete(self, tenant: UUID, key: str) -> bool:
        """Forgets the value. True when the store has confirmed it; False when it is away and may come back with it."""
        place = _place(tenant, key)
        try:
            await self._store.drop(tenant, key)
        except Away:
            return False
        finally:
            self._forget(place)
        return True

    async def incr(self, tenant: UUID, key: str, by: int = 1, *, ttl: float) -> int | None:
        """Adds to a count and returns it; no two callers get the same.

        A count begins at 0 and ends `ttl` seconds after its beginning, however often it is added to. None: the store is
        away, and nothing was counted as far as is known.

        Raises:
            Invalid: `ttl` or `by` is out of range (422).
            NotACount: something else stands there, or the count would pass MAX_COUNT (409).
        """
        place = _place(tenant, key)
        now = self._clock.now()
        if abs(by) > MAX_COUNT:
            raise _wrong("by", f"must be between -{MAX_COUNT} and {MAX_COUNT}")
        try:
            count = await self._store.count(tenant, key, by, _end(now, ttl), now)
        except Away:
            return None
        finally:
            self._forget(place)
        if count is None:
            raise NotACount("the value under this key is not a count, or the count would become too large")
        return count

    async def tend(self, ending: asyncio.Event) -> None:
        """Removes what has ended, until `ending` is set. Every process may run it."""
        await self._store.tend(ending)

    async def close(self) -> None:
        await self._store.close()

    def _forget(self, place: tuple[UUID, str]) -> None:
        """Neither the front nor a read under way may bring back what stood before a write."""
        self._front.drop(place)
        self._reading.pop(place, None)


class Lru:
    """Values of this process, those used last; bounded by what they take."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._entries: OrderedDict[tuple[UUID, str], tuple[bytes, datetime]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def taken(self) -> int:
        """Bytes, keys and overhead included."""
        return self._taken

    def get(self, place: tuple[UUID, str], now: datetime) -> bytes | None:
        held = self._entries.get(place)
        if held is None:
            return None
        value, until = held
        if until <= now:
            self.drop(place)
            return None
        self._entries.move_to_end(place)
        return value

    def put(self, place: tuple[UUID, str], value: bytes, until: datetime) -> None:
        """Holds `value`, and lets go of those that were not used for longest. A large one does not push out all."""
        self.drop(place)
        size = _size(place, value)
        if size > self._most // 8:
            return
        self._entries[place] = value, until
        self._taken += size
        while self._taken > self._most:
            oldest, (old, _) = self._entries.popitem(last=False)
            self._taken -= _size(oldest, old)

    def drop(self, place: tuple[UUID, str]) -> None:
        held = self._entries.pop(place, None)
        if held is not None:
            self._taken -= _size(place, held[0])


def _size(place: tuple[UUID, str], value: bytes) -> int:
    return len(value) + len(place[1]) + _OVERHEAD


def _place(tenant: UUID, key: str) -> tuple[UUID, str]:
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise _wrong("key", f"must have 1 to {MAX_KEY} printable characters")
    return tenant, key


def _end(now: datetime, ttl: float) -> datetime:
    if not (math.isfinite(ttl) and 0 < ttl <= MAX_TTL):
        raise _wrong("ttl", f"must be above 0 and at most {MAX_TTL:.0f} seconds")
    return now + timedelta(seconds=ttl)


def _wrong(field: str, message: str) -> Invalid:
    return Invalid(f"`{field}` {message}", errors=[FieldError(field, message)])
