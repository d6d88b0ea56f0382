"""One attempt's stream on its way from the provider's format into the client's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import orjson

from .dialogue import Delta, Request
from .errors import ProviderFailed
from .guards import GuardedStream
from .models import Usage
from .sse import SseParser
from .transcript import Transcript
from .wire import Wire
from .wire.base import Body, Reader, Writer


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event for the client: its bytes as they leave."""

    frame: bytes

    @property
    def body(self) -> Body:
        """What the event says; empty for an end mark. Read anew each time: whole answers of them would be large."""
        parser = SseParser()
        data = b"\n".join([*parser.feed(self.frame), parser.rest() or b""]).strip()
        return {} if data == b"[DONE]" else cast("Body", orjson.loads(data))


class Passage:
    """Feeds on the provider's bytes and gives the client's events.

    Both of one format: the events pass as they came. Otherwise, and where a guard may change them, they are written
    anew. What ends the answer is kept back for `ending`, which leaves when the call is settled. `error`: the
    provider's, where it came right after events that are still to be passed on; `last` is the event that it stands in.
    """

    def __init__(self, surface: Wire, native: Wire, request: Request, guards: GuardedStream | None = None) -> None:
        self._surface, self._native, self._request, self._guards = surface, native, request, guards
        self._reader: Reader = native.reader()
        relayed = surface.name == native.name and guards is None
        self._writer: Writer | None = None if relayed else surface.writer(request)
        self._parser = SseParser()
        self._kept: list[Chunk] = []
        self.error: ProviderFailed | None = None
        self.talk = Transcript(request.choices)

    @property
    def done(self) -> bool:
        """The provider's end mark came."""
        return self._reader.done

    @property
    def last(self) -> Body | None:
        return self._reader.body

    @property
    def malformed(self) -> int:
        return self._reader.malformed

    @property
    def searches(self) -> int:
        """How often the provider has searched the web, as far as it is known."""
        untold = self._request.searches_untold if self._native is self._surface else 0
        return max(self._reader.searches, untold)

    @property
    def begun(self) -> bool:
        """There is output, or the end of an answer without any: the client's status can be decided."""
        return self.talk.outputs > 0 or self.talk.finished or self._reader.done

    def feed(self, part: bytes) -> list[Chunk]:
        """Raises EventTooLarge; ProviderFailed when an event is an error."""
        return self._pass_on(self._parser.feed(part))

    def rest(self) -> list[Chunk]:
        """What the transport's end left without its blank line."""
        last = self._parser.rest()
        return [] if last is None else self._pass_on([last])

    def ending(self, usage: Usage) -> list[Chunk]:
        """The events that end the answer, those that the provider left out as well."""
        said = self.talk.said(usage)
        if self._writer is not None:
            events = self._writer.end(usage)
        else:
            events = self._surface.missing(self._reader, said, self._request)
        ends = self._kept + [Chunk(self._surface.frame(event)) for event in events]
        return [*ends, Chunk(self._surface.end_mark)] if self._surface.end_mark else ends

    def _pass_on(self, events: Iterable[bytes]) -> list[Chunk]:
        out: list[Chunk] = []
        for data in events:
            try:
                deltas = self._reader.feed(data)
            except ProviderFailed as error:
                if not out:
                    raise
                self.error = error
                break
            if self._guards is not None:
                deltas = self._guards.feed(deltas)
            if deltas:
                self.talk.follow(deltas)
            if self._writer is not None:
                self._translate(self._writer, deltas, out)
            elif (frame := self._surface.relay(self._reader, data, self._request)) is not None:
                (self._kept if self._reader.final else out).append(Chunk(frame))
        return out

    def _translate(self, writer: Writer, deltas: Iterable[Delta], out: list[Chunk]) -> None:
        out += [Chunk(self._surface.frame(event)) for event in writer.feed(deltas)]
