"""Follows the answer to one question, through a killed worker and a dropped connection if need be."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .client import Client, RequestFailed
from .sse import Event

_ENDS = ("done", "error", "cancelled")
_RECONNECTS = 20


@dataclass(slots=True)
class Followed:
    """What came over the stream of one question."""

    run: str
    events_url: str
    answer_url: str
    events: list[Event] = field(default_factory=list)
    text: str = ""
    void: str = ""
    restarts: int = 0
    connections: int = 0

    @property
    def last(self) -> Event | None:
        return self.events[-1] if self.events else None

    @property
    def end(self) -> Event | None:
        return self.last if self.last and self.last.type in _ENDS else None

    def take(self, event: Event) -> None:
        """Applies an event as a reader has to: a restart makes void what came before."""
        self.events.append(event)
        if event.type == "text.delta":
            self.text += event.data["text"]
        elif event.type == "status" and event.data.get("restarted"):
            self.void, self.text = self.text, ""
            self.restarts += 1


async def ask(client: Client, question: str, collection: str, model: str) -> Followed:
    """Asks; the answer is followed with `follow`."""
    body = {"question": question, "collection": collection, "model": model, "k": 4}
    asked = await client.post("/api/agents/ask", body)
    return Followed(asked["run"], asked["events_url"], asked["answer_url"])


async def follow(client: Client, followed: Followed, shown: Callable[[Event], Awaitable[bool]]) -> None:
    """Hands out each event once, in order, until the stream's end. `shown` may answer False to drop the connection;
    the next one resumes with `Last-Event-ID`.

    Raises:
        RequestFailed: the stream does not end well.
    """
    while followed.end is None:
        followed.connections += 1
        if followed.connections > _RECONNECTS:
            raise RequestFailed(f"the stream of run {followed.run} broke off {_RECONNECTS} times")
        async with aclosing(_resumed(client, followed)) as events:
            async for event in events:
                followed.take(event)
                if not await shown(event):
                    break
    if followed.end.type != "done":
        detail = followed.end.data.get("detail") or followed.end.type
        raise RequestFailed(f"run {followed.run} was not answered: {detail}")


async def _resumed(client: Client, followed: Followed) -> AsyncGenerator[Event, None]:
    after = followed.last.id if followed.last else 0
    async for event in client.events(followed.events_url, after):
        yield event


def gaps(followed: Followed) -> list[int]:
    """Numbers that are missing, repeated or out of order; none when every event came once."""
    return [event.id for place, event in enumerate(followed.events, start=1) if event.id != place]


def sources(followed: Followed) -> list[dict[str, Any]]:
    end = followed.end
    return list(end.data.get("sources", [])) if end else []
