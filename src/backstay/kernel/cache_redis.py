"""The cache in Redis, which may vanish at any time: then everything is a miss at once, and it comes back by itself.

A value stands in Redis with its end in front (15 digits, milliseconds of Unix time). So the clock that counts is ours,
in Redis as in Postgres; Redis's own expiry only removes what has ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from . import telemetry
from .cache import MAX_COUNT, Away, Entry
from .errors import ConfigurationError

TIMEOUT = 0.05  # seconds, for a connection and for an answer
_ANSWER_AFTER = 2.4  # timeouts: by then every call has an answer, whatever the library still does
_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds without Redis after a failure; doubled by the next one
_CONNECTIONS = 16  # Redis works on one command at a time: more would only wait there
_END = 15
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = telemetry.log("cache")
T = TypeVar("T")

_COUNT = f"""
local by, now, ends, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local stood = redis.call('GET', KEYS[1])
if not stood or tonumber(string.sub(stood, 1, {_END})) <= now then
    redis.call('SET', KEYS[1], ends .. by, 'PX', ttl)
    return tonumber(by)
end
local text = string.sub(stood, {_END + 1})
if not string.match(text, '^-?%d+$') or #text > 17 then return false end
local count = tonumber(text) + tonumber(by)
if math.abs(count) > {MAX_COUNT} then return false end
redis.call('SET', KEYS[1], string.sub(stood, 1, {_END}) .. string.format('%.0f', count), 'KEEPTTL')
return count
"""


class RedisStore:
    """Entries in Redis (6 or newer) at `url`, such as `redis://cache:6379/0`. `timeout` in seconds.

    Raises:
        ConfigurationError: the URL cannot be read.
    """

    name = "redis"

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
                max_connections=_CONNECTIONS,
            )
        except ValueError:
            raise ConfigurationError(
                "BACKSTAY_REDIS_URL cannot be read; it is written like redis://user:password@host:6379/0"
            ) from None
        self._count = self._redis.register_script(_COUNT)
        self._answer_after = timeout * _ANSWER_AFTER
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._calls: set[asyncio.Future[Any]] = set()
        self._circuit = _Circuit()
        self._complained: set[str] = set()

    async def find(self, tenant: UUID, key: str, now: datetime) -> Entry | None:
        stored = cast("bytes | None", await self._ask(lambda: self._redis.get(_name(tenant, key))))
        if stored is None:
            return None
        try:
            entry = Entry(stored[_END:], _EPOCH + timedelta(milliseconds=int(stored[:_END])))
        except (ValueError, OverflowError):
            return None  # somebody else's value
        return entry if entry.expires_at > now else None

    async def keep(self, tenant: UUID, key: str, entry: Entry, now: datetime) -> None:
        stored = _ends(entry.expires_at) + entry.value
        await self._ask(lambda: self._redis.set(_name(tenant, key), stored, px=_left(entry.expires_at, now)))

    async def drop(self, tenant: UUID, key: str) -> None:
        await self._ask(lambda: self._redis.delete(_name(tenant, key)))

    async def count(self, tenant: UUID, key: str, by: int, expires_at: datetime, now: datetime) -> int | None:
        arguments: list[int | bytes] = [by, _millis(now), _ends(expires_at), _left(expires_at, now)]
        count: int | None = await self._ask(lambda: self._count(keys=[_name(tenant, key)], args=arguments))
        return count

    async def tend(self, ending: asyncio.Event) -> None:
        """Redis removes by itself what has ended."""

    async def close(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls)
        await self._redis.aclose()

    async def _ask(self, command: Callable[[], Awaitable[T]]) -> T:
        """Redis's answer.

        The command runs in a task of its own and is never cancelled: a connection that is left between question and
        answer would have to be thrown away, and a caller who leaves must not cost one.

        Raises:
            Away: there is none in time.
        """
        try:
            async with asyncio.timeout(self._answer_after):
                await self._slots.acquire()
                if not self._circuit.lets_pass():
                    self._slots.release()
                    raise Away
                call = asyncio.ensure_future(command())
                self._calls.add(call)
                call.add_done_callback(self._ended)
                await asyncio.wait([call])
        except TimeoutError:
            raise Away from None
        if call.exception() is not None:
            raise Away
        return call.result()

    def _ended(self, call: "asyncio.Future[Any]") -> None:
        self._calls.discard(call)
        self._slots.release()
        error = call.exception()
        if error is None:
            self._circuit.answered()
        elif isinstance(error, ResponseError):
            # It answers, but will not do that: it is full, or read-only, or its rights forbid it.
            self._circuit.answered()
            self._complain(error)
        elif isinstance(error, RedisError | OSError):
            self._circuit.failed(str(error) or type(error).__name__)
        else:
            self._circuit.failed(type(error).__name__)
            _log.error("a call of the cache broke", exc_info=error)

    def _complain(self, error: ResponseError) -> None:
        kind = type(error).__name__
        if kind not in self._complained:
            self._complained.add(kind)
            _log.warning("Redis refuses a command of the cache; said once for each kind", error=str(error))


class _Circuit:
    """Open for a while after a failure, so that nobody waits for a Redis that is away; then one call tries it."""

    def __init__(self) -> None:
        self._away = self._trying = False
        self._open_until, self._pause = 0.0, _PAUSE

    def lets_pass(self) -> bool:
        if not self._away:
            return True
        if self._trying or time.monotonic() < self._open_until:
            return False
        self._trying = True
        return True

    def answered(self) -> None:
        if self._away:
            _log.info("Redis answers again")
        self._away, self._trying, self._pause = False, False, _PAUSE

    def failed(self, reason: str) -> None:
        if self._away and not self._trying:
            return  # a call from before: the failure is known
        if not self._away:
            _log.warning("Redis does not answer; until it does, everything cached there is a miss", reason=reason)
        self._open_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._away, self._trying = True, False


def _name(tenant: UUID, key: str) -> str:
    return f"backstay:cache:{tenant.hex}:{key}"


def _millis(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _ends(at: datetime) -> bytes:
    return b"%0*d" % (_END, _millis(at))


def _left(expires_at: datetime, now: datetime) -> int:
    return max(1, _millis(expires_at) - _millis(now))
