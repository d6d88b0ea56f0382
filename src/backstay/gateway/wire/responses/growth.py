"""Items of an answer under way: each tells the events of its growth, in the official order.

Their texts are kept, because every `done` says again what the deltas before it said.
"""

from collections.abc import Iterator

import orjson

from ...dialogue import Media, Thinking, ThinkingDelta
from ..base import Body
from . import seal as seals

DONE, CUT = "completed", "incomplete"


class Message:
    """Texts and refusals (`kind` output_text or refusal), one part after the other."""

    def __init__(self, id: str, index: int) -> None:
        self._id, self._index = id, index
        self._content: list[Body] = []
        self._block: tuple[int, str] | None = None
        self._texts: list[str] = []

    def begin(self) -> Body:
        return _added(self._item("in_progress"), self._index)

    def say(self, block: int, kind: str, text: str) -> Iterator[Body]:
        if self._block != (block, kind):
            yield from self._end_part()
            self._block = (block, kind)
            yield self._event("response.content_part.added", part=_part(kind, ""))
        self._texts.append(text)
        if kind == "refusal":
            yield self._event("response.refusal.delta", delta=text)
        else:
            yield self._event("response.output_text.delta", delta=text, logprobs=[])

    def end(self, status: str) -> Iterator[Body]:
        yield from self._end_part()
        yield _done(self._item(status), self._index)

    def _end_part(self) -> Iterator[Body]:
        if self._block is None:
            return
        kind, text = self._block[1], "".join(self._texts)
        part = _part(kind, text)
        if kind == "refusal":
            yield self._event("response.refusal.done", refusal=text)
        else:
            yield self._event("response.output_text.done", text=text, logprobs=[])
        yield self._event("response.content_part.done", part=part)
        self._content.append(part)
        self._block, self._texts = None, []

    def _event(self, type: str, **fields: object) -> Body:
        at = {"item_id": self._id, "output_index": self._index, "content_index": len(self._content)}
        return {"type": type, **at, **fields}

    def _item(self, status: str) -> Body:
        return {
            "id": self._id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": list(self._content),
        }


class Thought:
    """A reasoning item. What it says goes out as its summary, unless it is redacted; what is opaque, at its end."""

    def __init__(self, id: str, index: int, block: int) -> None:
        self.block = block
        self._at = {"item_id": id, "output_index": index, "summary_index": 0}
        self._shown: list[str] = []
        self._hidden: list[str] = []
        self._redacted = False
        self._signature: str | None = None
        self._origin: str | None = None

    def begin(self) -> Body:
        return _added(self._item(None), self._at["output_index"])

    def grow(self, delta: ThinkingDelta) -> Iterator[Body]:
        self._origin = delta.origin or self._origin
        self._redacted = delta.redacted or self._redacted
        if delta.signature is not None:
            self._signature = (self._signature or "") + delta.signature
        if self._redacted or not delta.text:
            self._hidden.append(delta.text)
            return
        if not self._shown:
            yield self._event("response.reasoning_summary_part.added", part=_summary(""))
        self._shown.append(delta.text)
        yield self._event("response.reasoning_summary_text.delta", delta=delta.text)

    def end(self, status: str) -> Iterator[Body]:
        text = "".join(self._shown)
        if text:
            yield self._event("response.reasoning_summary_text.done", text=text)
            yield self._event("response.reasoning_summary_part.done", part=_summary(text))
        kept = "".join(self._hidden) if self._redacted else text
        encrypted = seals.seal(Thinking(kept, self._signature, self._redacted, self._origin))
        yield _done(self._item(encrypted, text), self._at["output_index"])

    def _event(self, type: str, **fields: object) -> Body:
        return {"type": type, **self._at, **fields}

    def _item(self, encrypted: str | None, text: str = "") -> Body:
        return reasoning(str(self._at["item_id"]), encrypted, text)


class Call:
    """A function call. `whole`: its arguments are an object of JSON, to which nothing can be added."""

    def __init__(self, id: str, index: int, call: str, name: str) -> None:
        self._id, self._index, self._call, self._name = id, index, call, name
        self._texts: list[str] = []

    @property
    def whole(self) -> bool:
        try:
            return isinstance(orjson.loads("".join(self._texts)), dict)
        except orjson.JSONDecodeError:
            return False

    def begin(self) -> Body:
        return _added(self._item("", "in_progress"), self._index)

    def grow(self, arguments: str) -> Body:
        self._texts.append(arguments)
        return self._event("delta", delta=arguments)

    def end(self, status: str) -> Iterator[Body]:
        if not self._texts and status == DONE:
            # Clients read the arguments as JSON, which an empty text is not.
            yield self.grow("{}")
        arguments = "".join(self._texts)
        yield self._event("done", arguments=arguments, name=self._name)
        yield _done(self._item(arguments, status), self._index)

    def _event(self, what: str, **fields: object) -> Body:
        at = {"item_id": self._id, "output_index": self._index}
        return {"type": f"response.function_call_arguments.{what}", **at, **fields}

    def _item(self, arguments: str, status: str) -> Body:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "arguments": arguments,
            "call_id": self._call,
            "name": self._name,
        }


def picture(id: str, index: int, media: Media) -> Iterator[Body]:
    """A picture, as the item of a call that made it."""
    at = {"item_id": id, "output_index": index}
    item: Body = {"id": id, "type": "image_generation_call", "status": "in_progress", "result": None}
    yield _added(item, index)
    for step in ("in_progress", "generating", "completed"):
        yield {"type": f"response.image_generation_call.{step}", **at}
    form = (media.type or "image/png").partition("/")[2]
    yield _done(item | {"status": DONE, "result": media.data, "output_format": form}, index)


def opaque(id: str, index: int, encrypted: str) -> Iterator[Body]:
    """A reasoning item that says nothing and only carries something."""
    yield _added(reasoning(id, None, ""), index)
    yield _done(reasoning(id, encrypted, ""), index)


def reasoning(id: str, encrypted: str | None, text: str) -> Body:
    item: Body = {"id": id, "type": "reasoning", "summary": [_summary(text)] if text else []}
    return item | {"encrypted_content": encrypted} if encrypted is not None else item


def _added(item: Body, index: object) -> Body:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _done(item: Body, index: object) -> Body:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def _part(kind: str, text: str) -> Body:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _summary(text: str) -> Body:
    return {"type": "summary_text", "text": text}
