"""Makes the events of a client's stream of the Responses API, and a whole answer out of the same."""

from collections.abc import Iterable, Iterator

from ...dialogue import (
    Began,
    Delta,
    Media,
    MediaDelta,
    Part,
    Refusal,
    RefusalDelta,
    Request,
    Said,
    Stop,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolCall,
    ToolDelta,
)
from ...models import Usage
from ..base import Body
from . import seal as seals
from .answer import Head
from .growth import CUT, DONE, Call, Message, Thought, opaque, picture

_CUT = (Stop.LENGTH, Stop.REFUSAL)


class ResponsesWriter:
    """See Writer. Texts and refusals that follow one another are parts of one message; every thought and every call is
    an item of its own. Calls may grow side by side; everything else ends before the next thing begins."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._head: Head | None = None
        self._items = 0
        self._output: dict[int, Body] = {}
        self._open: Message | Thought | None = None
        self._calls: dict[int, Call] = {}
        self._stop: Stop | None = None
        self._sequence = 0

    def feed(self, deltas: Iterable[Delta]) -> list[Body]:
        return [self._numbered(event) for delta in deltas for event in self._take(delta)]

    def end(self, usage: Usage | None) -> list[Body]:
        """As Writer.end; `usage` is None when nobody counted."""
        events = self.feed(() if self._head is not None else (Began("", ""),))
        events += [self._numbered(event) for event in self._close(cut=self._stop in _CUT)]
        output = [self._output[index] for index in sorted(self._output)]
        response = self._begun.response(output, self._stop, usage)
        return [*events, self._numbered({"type": f"response.{response['status']}", "response": response})]

    @property
    def _begun(self) -> Head:
        assert self._head is not None  # noqa: S101 -- every way here begins
        return self._head

    def _numbered(self, event: Body) -> Body:
        event["sequence_number"] = self._sequence
        self._sequence += 1
        if event["type"] == "response.output_item.done":
            self._output[event["output_index"]] = event["item"]
        return event

    def _take(self, delta: Delta) -> Iterator[Body]:
        if self._head is None:
            began = delta if isinstance(delta, Began) else Began("", "")
            self._head = Head(began.id, began.model, began.created, self._request)
            yield {"type": "response.created", "response": self._head.begun()}
            yield {"type": "response.in_progress", "response": self._head.begun()}
        if getattr(delta, "choice", 0):
            # There is one answer here.
            return
        if isinstance(delta, TextDelta):
            yield from self._say(delta.block, "output_text", delta.text)
        elif isinstance(delta, ToolDelta):
            # A call that is whole, and therefore closed, has nothing to add but white space.
            if (call := self._calls.get(delta.block)) is not None and delta.arguments:
                yield call.grow(delta.arguments)
        elif isinstance(delta, ThinkingDelta):
            yield from self._think(delta)
        elif isinstance(delta, ToolBegan):
            yield from self._call(delta)
        elif isinstance(delta, MediaDelta):
            yield from self._show(delta)
        elif isinstance(delta, RefusalDelta):
            yield from self._say(delta.block, "refusal", delta.text)
        elif isinstance(delta, Stopped):
            self._stop = delta.stop
            yield from self._close(cut=delta.stop in _CUT)

    def _say(self, block: int, kind: str, text: str) -> Iterator[Body]:
        if not text:
            return
        message = self._open
        if not isinstance(message, Message):
            yield from self._make_room()
            self._open = message = Message(*self._place("msg"))
            yield message.begin()
        yield from message.say(block, kind, text)

    def _think(self, delta: ThinkingDelta) -> Iterator[Body]:
        thought = self._open
        if not isinstance(thought, Thought) or thought.block != delta.block:
            yield from self._make_room()
            id, index = self._place("rs")
            if delta.origin == seals.ORIGIN and delta.id:
                # Its encrypted content belongs to it under this id.
                id = delta.id
            self._open = thought = Thought(id, index, delta.block)
            yield thought.begin()
        yield from thought.grow(delta)

    def _show(self, delta: MediaDelta) -> Iterator[Body]:
        if delta.media.kind != "image" or delta.media.data is None:
            yield from self._say(delta.block, "output_text", delta.media.note)
            return
        yield from self._make_room()
        yield from picture(*self._place("ig"), delta.media)

    def _call(self, delta: ToolBegan) -> Iterator[Body]:
        yield from self._make_room()
        if (former := self._calls.pop(delta.block, None)) is not None:
            yield from former.end(DONE)
        if delta.signature is not None:
            yield from opaque(*self._place("rs"), seals.seal_call(delta.id, delta.signature))
        call = self._calls[delta.block] = Call(*self._place("fc"), delta.id, delta.name)
        yield call.begin()

    def _make_room(self) -> Iterator[Body]:
        """Ends what cannot grow any more because something else begins. Calls are left open, as formats may interleave
        them, unless they are whole: then their reader may start to work on them."""
        if self._open is not None:
            yield from self._open.end(DONE)
            self._open = None
        for block in [block for block, call in self._calls.items() if call.whole]:
            yield from self._calls.pop(block).end(DONE)

    def _close(self, cut: bool) -> Iterator[Body]:
        if self._open is not None:
            yield from self._open.end(CUT if cut else DONE)
            self._open = None
        for block in list(self._calls):
            call = self._calls.pop(block)
            yield from call.end(CUT if cut and not call.whole else DONE)

    def _place(self, kind: str) -> tuple[str, int]:
        index = self._items
        self._items += 1
        return self._begun.item(kind, index), index


def whole(said: Said, request: Request | None) -> Body:
    """The `response` object of a whole answer."""
    writer = ResponsesWriter(request or Request(said.model))
    writer.feed([Began(said.id, said.model, created=said.created)])
    for block, part in enumerate(said.parts):
        writer.feed(_deltas(block, part))
    if said.stop is not None:
        writer.feed([Stopped(said.stop)])
    response: Body = writer.end(said.usage)[-1]["response"]
    return response


def _deltas(block: int, part: Part) -> Iterator[Delta]:
    if isinstance(part, Text):
        yield TextDelta(block, part.text)
    elif isinstance(part, Refusal):
        yield RefusalDelta(block, part.text)
    elif isinstance(part, Thinking):
        yield ThinkingDelta(block, part.text, part.signature, part.redacted, part.origin, part.id)
    elif isinstance(part, Media):
        yield MediaDelta(block, part)
    elif isinstance(part, ToolCall):
        yield ToolBegan(block, part.id, part.name, part.signature)
        yield ToolDelta(block, part.arguments)
