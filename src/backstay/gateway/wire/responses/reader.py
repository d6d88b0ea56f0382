"""Follows a provider's stream of the Responses API."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from ...dialogue import (
    Began,
    Delta,
    Media,
    MediaDelta,
    RefusalDelta,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolCall,
    ToolDelta,
    Used,
)
from ...errors import ProviderFailed
from ..base import Body
from . import answer as answers
from . import seal as seals

_WHOLE = -1  # the place of what has no parts: a call, a thought


class ResponsesReader:
    """See Reader. `done` comes with the event that carries the whole response, and that event is `final`.

    What was streamed is not read again in the snapshots that follow it; a snapshot counts only for what never was.
    """

    def __init__(self) -> None:
        self.body: Body | None = None
        self.done = self.used = self.final = False
        self.malformed = self.searches = 0
        self._began = self._called = False
        # Blocks by output index and content index.
        self._blocks: dict[tuple[int, int], int] = {}
        # Calls whose arguments are still to come, and where in its summary or content each thought stands.
        self._silent: set[int] = set()
        self._thoughts: dict[int, tuple[str, int]] = {}

    def feed(self, data: bytes) -> Sequence[Delta]:
        self.body, self.final = None, False
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            # The end mark of the chat format means nothing here; some send it from habit.
            self.malformed += data != b"[DONE]"
            return ()
        kind = body.get("type") if type(body) is dict else None
        if type(kind) is not str or "\n" in kind or "\r" in kind:
            return self._nameless(body)
        follow = _FOLLOW.get(kind)
        deltas = follow(self, body) if follow is not None else ()
        if deltas is None:
            self.malformed += 1
            return ()
        self.body = body
        return deltas

    def _text(self, body: Body) -> Sequence[Delta] | None:
        text, item, part = body.get("delta"), body.get("output_index", 0), body.get("content_index", 0)
        if type(text) is not str or type(item) is not int or type(part) is not int:
            return None
        return (TextDelta(self._block(item, part), text),) if text else ()

    def _refusal(self, body: Body) -> Sequence[Delta] | None:
        text, item, part = body.get("delta"), body.get("output_index", 0), body.get("content_index", 0)
        if type(text) is not str or type(item) is not int or type(part) is not int:
            return None
        return (RefusalDelta(self._block(item, part), text),) if text else ()

    def _arguments(self, body: Body) -> Sequence[Delta] | None:
        text, item = body.get("delta"), body.get("output_index", 0)
        if type(text) is not str or type(item) is not int:
            return None
        block = self._blocks.get((item, _WHOLE))
        if block is None or not text:
            # A call nobody announced has no name yet; its snapshot will have.
            return ()
        self._silent.discard(item)
        return (ToolDelta(block, text),)

    def _summary(self, body: Body) -> Sequence[Delta] | None:
        return self._thought(body, "summary_index", "\n\n")

    def _raw(self, body: Body) -> Sequence[Delta] | None:
        return self._thought(body, "content_index", "")

    def _thought(self, body: Body, field: str, between: str) -> Sequence[Delta] | None:
        text, item, part = body.get("delta"), body.get("output_index", 0), body.get(field, 0)
        if type(text) is not str or type(item) is not int or type(part) is not int:
            return None
        last = self._thoughts.setdefault(item, (field, part))
        if not text or last[0] != field:
            # A summary of a thought that is told in full already, or the other way round.
            return ()
        if last[1] != part:
            self._thoughts[item] = (field, part)
            text = between + text
        id = answers.text_of(body, "item_id") or None
        return (ThinkingDelta(self._block(item, _WHOLE), text, origin=seals.ORIGIN, id=id),)

    def _begun(self, body: Body) -> Sequence[Delta] | None:
        response = body.get("response")
        if not isinstance(response, dict):
            return None
        return self._head(response)

    def _added(self, body: Body) -> Sequence[Delta] | None:
        item, index = body.get("item"), body.get("output_index", 0)
        if not isinstance(item, dict) or type(index) is not int:
            return None
        if answers.text_of(item, "type") not in answers.CALLS or (index, _WHOLE) in self._blocks:
            return ()
        self._silent.add(index)
        return (self._call(item, index),)

    def _finished(self, body: Body) -> Sequence[Delta] | None:
        item, index = body.get("item"), body.get("output_index", 0)
        if not isinstance(item, dict) or type(index) is not int:
            return None
        self.searches += answers.is_search(item)
        return self._rest(item, index)

    def _ended(self, body: Body) -> Sequence[Delta] | None:
        response = body.get("response")
        if not isinstance(response, dict):
            return None
        if (message := answers.error_of(response)) is not None:
            raise _failed(message)
        deltas: list[Delta] = [*self._head(response)]
        output = response.get("output")
        if not self._blocks and isinstance(output, list):
            # Indexes in a stream may have gaps, so that places in the list mean something only when nothing came yet.
            for index, item in enumerate(output):
                if isinstance(item, dict):
                    deltas += self._rest(item, index)
        if (usage := answers.usage_of(response)) is not None:
            self.used = True
            deltas.append(Used(usage))
        if stop := answers.stop_of(response, self._called, status=body["type"].removeprefix("response.")):
            deltas.append(Stopped(stop))
        self.done = self.final = True
        return deltas

    def _broken(self, body: Body) -> Sequence[Delta] | None:
        response = body.get("response")
        found = answers.error_of(response if isinstance(response, dict) else body)
        raise _failed(found or "it did not say why")

    def _nameless(self, body: Any) -> Sequence[Delta]:
        if (message := answers.error_of(body)) is not None:
            raise _failed(message)
        self.malformed += 1
        return ()

    def _head(self, response: Body) -> Sequence[Delta]:
        if self._began:
            return ()
        self._began = True
        id, model = answers.text_of(response, "id"), answers.text_of(response, "model")
        return (Began(id, model, created=answers.created_of(response)),)

    def _rest(self, item: Body, index: int) -> list[Delta]:
        """What of an item did not come as deltas."""
        deltas: list[Delta] = []
        if item.get("type") == "message":
            for place, said in answers.contents(item):
                if (index, place) not in self._blocks:
                    block = self._block(index, place)
                    kind = TextDelta if isinstance(said, Text) else RefusalDelta
                    deltas.append(kind(block, said.text))
            return deltas
        known = (index, _WHOLE) in self._blocks
        for part in answers.parts_of(item):
            if isinstance(part, ToolCall):
                if not known:
                    deltas.append(self._call(item, index))
                if part.arguments and (not known or index in self._silent):
                    deltas.append(ToolDelta(self._blocks[index, _WHOLE], part.arguments))
                self._silent.discard(index)
            elif isinstance(part, Thinking):
                deltas += self._thinking(part, index, known)
            elif isinstance(part, Media) and not known:
                deltas.append(MediaDelta(self._block(index, _WHOLE), part))
        return deltas

    def _thinking(self, part: Thinking, index: int, known: bool) -> Sequence[Delta]:
        text = "" if known else part.text
        if not text and part.signature is None:
            return ()
        return (ThinkingDelta(self._block(index, _WHOLE), text, part.signature, origin=part.origin, id=part.id),)

    def _call(self, item: Body, index: int) -> Delta:
        self._called = True
        return ToolBegan(self._block(index, _WHOLE), answers.text_of(item, "call_id"), answers.text_of(item, "name"))

    def _block(self, item: int, part: int) -> int:
        return self._blocks.setdefault((item, part), len(self._blocks))


def _failed(message: str) -> ProviderFailed:
    return ProviderFailed(f"the provider reported an error in its answer: {message}")


_FOLLOW: dict[str, Callable[[ResponsesReader, Body], Sequence[Delta] | None]] = {
    "response.created": ResponsesReader._begun,
    "response.queued": ResponsesReader._begun,
    "response.in_progress": ResponsesReader._begun,
    "response.output_item.added": ResponsesReader._added,
    "response.output_text.delta": ResponsesReader._text,
    "response.refusal.delta": ResponsesReader._refusal,
    "response.reasoning_summary_text.delta": ResponsesReader._summary,
    "response.reasoning_text.delta": ResponsesReader._raw,
    "response.function_call_arguments.delta": ResponsesReader._arguments,
    "response.custom_tool_call_input.delta": ResponsesReader._arguments,
    "response.output_item.done": ResponsesReader._finished,
    "response.completed": ResponsesReader._ended,
    "response.incomplete": ResponsesReader._ended,
    "response.failed": ResponsesReader._broken,
    "response.cancelled": ResponsesReader._broken,
    "error": ResponsesReader._broken,
}
