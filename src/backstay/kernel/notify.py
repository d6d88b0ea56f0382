"""Wake-ups between processes: one LISTEN connection each, and NOTIFY sent in bundles.

A NOTIFY inside a transaction takes a lock at commit that halves the commit rate at eight clients. So wake-ups leave
after the commit: the first at once, the next ones at most one statement every few milliseconds, which carries every
topic and key that is due. They may be lost (a dropped connection): a subscriber also polls.
"""

import asyncio
import contextlib
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import TracebackType

from psycopg import AsyncConnection, Error

from . import telemetry
from .errors import BackstayError

CHANNEL = "backstay"
_MAX_PAYLOAD = 7_800  # Postgres allows 8,000 bytes
_MAX_LINE = 200  # characters
_log = telemetry.log("notify")
_reconnects = telemetry.counter("backstay_listen_reconnects_total", "Times the LISTEN connection was made again.")


class Subscription:
    """Wakes on a topic, for one key or for any. Use it as a context manager."""

    def __init__(self, notifier: "Notifier", topic: str, key: str | None) -> None:
        self._notifier, self.topic = notifier, topic
        self._line = None if key is None else note_line(topic, key)
        self._event = asyncio.Event()

    def __enter__(self) -> "Subscription":
        self._notifier._add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notifier._remove(self)

    def wake(self, line: str | None = None) -> None:
        """Wakes it, unless it waits for another key than the line's."""
        if line is None or self._line is None or self._line == line:
            self._event.set()

    async def wait(self, timeout: float) -> bool:
        """Waits at most `timeout` seconds; True when woken. A wake-up that came before is not lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken


class Notifier:
    """Sends and receives wake-ups for this process."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncConnection[object]]],
        send: Callable[[list[str]], Awaitable[None]],
        interval: float = 0.003,
    ) -> None:
        self._connect, self._send, self._interval = connect, send, interval
        self._origin = secrets.token_hex(4)
        self._subscriptions: dict[str, set[Subscription]] = defaultdict(set)
        self._pending: set[str] = set()
        self._sent_at = float("-inf")
        self._flusher: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    def notify(self, topic: str, key: str = "") -> None:
        """Wakes the subscribers of this process now and those of the others within a few milliseconds."""
        line = note_line(topic, key)
        self._wake(line)
        self._pending.add(line)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="notify-flush")

    def subscribe(self, topic: str, key: str | None = None) -> Subscription:
        return Subscription(self, topic, key)

    async def close(self) -> None:
        """Sends what is pending and stops listening."""
        if self._flusher is not None:
            await self._flusher
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    def _add(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.topic].add(subscription)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="notify-listen")

    def _remove(self, subscription: Subscription) -> None:
        standing = self._subscriptions[subscription.topic]
        standing.discard(subscription)
        if not standing:
            del self._subscriptions[subscription.topic]

    def _wake(self, line: str) -> None:
        for subscription in self._subscriptions.get(line.partition(" ")[0], ()):
            subscription.wake(line)

    def _wake_everyone(self) -> None:
        for standing in self._subscriptions.values():
            for subscription in standing:
                subscription.wake()

    async def _flush(self) -> None:
        while self._pending:
            await asyncio.sleep(max(0.0, self._sent_at + self._interval - time.monotonic()))
            due, self._pending = self._pending, set()
            self._sent_at = time.monotonic()
            try:
                await self._send(list(payloads(self._origin, due)))
            except (Error, BackstayError) as error:
                # Subscribers poll, so a lost wake-up costs time, not work.
                _log.warning("wake-ups not sent", error=str(error), count=len(due))

    async def _listen(self) -> None:
        pause = 0.05
        while True:
            try:
                connection = await self._connect()
                async with connection:
                    await connection.execute(f"listen {CHANNEL}")
                    self._wake_everyone()  # whatever was sent while nobody listened
                    pause = 0.05
                    async for notification in connection.notifies():
                        self._receive(notification.payload)
            except Error as error:
                _log.warning("LISTEN connection lost; making it again", error=str(error), seconds=pause)
                _reconnects.inc()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _receive(self, payload: str) -> None:
        origin, *lines = payload.split("\n")
        if origin == self._origin:
            return  # this process woke its own subscribers when it sent
        for line in lines:
            self._wake(line)


def note_line(topic: str, key: str) -> str:
    """One wake-up as a line of a payload. Long keys are cut, and so wake each other's subscribers, which look again."""
    return f"{topic} {key}".replace("\n", " ")[:_MAX_LINE]


def payloads(origin: str, lines: Iterable[str]) -> Iterator[str]:
    """Packs lines into as few payloads as the size limit of NOTIFY allows."""
    head, size = [origin], len(origin)
    for line in lines:
        if size + len(line.encode()) + 1 > _MAX_PAYLOAD:
            yield "\n".join(head)
            head, size = [origin], len(origin)
        head.append(line)
        size += len(line.encode()) + 1
    yield "\n".join(head)
