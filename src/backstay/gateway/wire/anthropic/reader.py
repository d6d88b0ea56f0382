"""Follows a stream of Anthropic's. It is on the hot path of every relayed stream: each event is parsed once."""

from collections.abc import Sequence
from typing import Any

import orjson

from ...dialogue import Began, Delta, RefusalDelta, Stopped, TextDelta, ThinkingDelta, ToolBegan, ToolDelta, Used
from ...errors import ProviderFailed
from ..base import Body
from .thoughts import ORIGIN
from .usage import read_stop, read_usage

# A block of a kind that other formats have no word for.
_SKIPPED = -1
_NOTHING: tuple[Delta, ...] = ()


class MessageReader:
    """A Reader. Blocks are numbered anew, as some kinds are skipped."""

    def __init__(self) -> None:
        self.body: Body | None = None
        self.done = self.used = self.final = False
        self.malformed = self.searches = 0
        self._blocks: dict[int, int] = {}
        self._next = 0
        self._inputs: dict[int, Any] = {}
        self._usage: Body = {}

    def feed(self, data: bytes) -> Sequence[Delta]:
        """What the `data` of one event says. An event that cannot be read is counted and skipped: `body` is then None.

        Raises:
            ProviderFailed: the event is an error of the provider.
        """
        self.final = False
        try:
            body = orjson.loads(data)
            kind = body["type"]
        except (ValueError, TypeError, KeyError):
            return self._odd(data)
        self.body = body
        if kind == "content_block_delta":
            return self._delta(body)
        if not isinstance(kind, str) or not kind.isprintable():
            # A line end in it would become a line of the stream.
            return self._malformed()
        match kind:
            case "content_block_start":
                return self._block_began(body)
            case "content_block_stop":
                return self._block_ended(body)
            case "message_delta":
                return self._message_delta(body)
            case "message_start":
                return self._began(body)
            case "message_stop":
                self.done = self.final = True
            case "error":
                raise ProviderFailed(f"the provider reported an error in its answer: {error_of(body)}")
        return _NOTHING

    def _delta(self, body: Body) -> Sequence[Delta]:
        delta, index = body.get("delta"), body.get("index")
        if type(delta) is not dict or type(index) is not int:
            return self._malformed()
        block = self._blocks.get(index)
        if block == _SKIPPED:
            return _NOTHING
        if block is None:
            # Some providers leave out the beginning of a block. What is not the text of one cannot be placed.
            if delta.get("type") not in ("text_delta", "thinking_delta"):
                return self._malformed()
            block = self._number(index)
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                return (TextDelta(block, text),) if text else _NOTHING
            case {"type": "input_json_delta", "partial_json": str(text)}:
                if not text:
                    return _NOTHING
                self._inputs.pop(index, None)
                return (ToolDelta(block, text),)
            case {"type": "thinking_delta", "thinking": str(text)}:
                return (ThinkingDelta(block, text, origin=ORIGIN),) if text else _NOTHING
            case {"type": "signature_delta", "signature": str(signature)}:
                return (ThinkingDelta(block, signature=signature, origin=ORIGIN),) if signature else _NOTHING
            case {"type": "text_delta" | "input_json_delta" | "thinking_delta" | "signature_delta"}:
                return self._malformed()
        return _NOTHING

    def _began(self, body: Body) -> Sequence[Delta]:
        message = body.get("message")
        if not isinstance(message, dict):
            return self._malformed()
        usage = message.get("usage")
        if isinstance(usage, dict):
            self._usage = dict(usage)
        name, model = message.get("id"), message.get("model")
        return (
            Began(
                id=name if isinstance(name, str) else "",
                model=model if isinstance(model, str) else "",
                usage=read_usage(self._usage),
            ),
        )

    def _block_began(self, body: Body) -> Sequence[Delta]:
        index, block = body.get("index"), body.get("content_block")
        if type(index) is not int or not isinstance(block, dict):
            return self._malformed()
        self._inputs.pop(index, None)
        match block:
            case {"type": "text"}:
                text = block.get("text")
                number = self._number(index)
                return (TextDelta(number, text),) if isinstance(text, str) and text else _NOTHING
            case {"type": "thinking"}:
                return self._thought_began(self._number(index), block)
            case {"type": "redacted_thinking", "data": str(data)}:
                return (ThinkingDelta(self._number(index), signature=data, redacted=True, origin=ORIGIN),)
            case {"type": "tool_use", "id": str(call), "name": str(name)}:
                # It counts only when no pieces follow; then the arguments are these, mostly none.
                self._inputs[index] = block.get("input") or {}
                return (ToolBegan(self._number(index), call, name),)
            case {"type": "redacted_thinking" | "tool_use"}:
                return self._malformed()
            case {"type": "server_tool_use", "name": "web_search"}:
                self.searches += 1
        self._blocks[index] = _SKIPPED
        return _NOTHING

    def _thought_began(self, number: int, block: Body) -> Sequence[Delta]:
        text, signature = block.get("thinking"), block.get("signature")
        text = text if isinstance(text, str) else ""
        signature = signature if isinstance(signature, str) and signature else None
        return (ThinkingDelta(number, text, signature, origin=ORIGIN),) if text or signature else _NOTHING

    def _block_ended(self, body: Body) -> Sequence[Delta]:
        index = body.get("index")
        if type(index) is not int:
            return self._malformed()
        given = self._inputs.pop(index, None)
        if given is None:
            return _NOTHING
        try:
            return (ToolDelta(self._blocks[index], orjson.dumps(given).decode()),)
        except TypeError:
            # Nested too deeply for anybody.
            return self._malformed()

    def _message_delta(self, body: Body) -> Sequence[Delta]:
        delta, usage = body.get("delta"), body.get("usage")
        found: list[Delta] = []
        if isinstance(usage, dict):
            # Cumulative: what is not said again stands.
            self._usage |= {name: value for name, value in usage.items() if value is not None}
            if (used := read_usage(self._usage)) is not None:
                found.append(Used(used))
                self.used = True
        if isinstance(delta, dict) and (stop := read_stop(delta.get("stop_reason"))) is not None:
            if (words := refusal_of(delta)) is not None:
                found.append(RefusalDelta(self._number(), words))
            sequence = delta.get("stop_sequence")
            found.append(Stopped(stop, sequence if isinstance(sequence, str) else None))
        return found

    def _number(self, index: int | None = None) -> int:
        number = self._next
        self._next += 1
        if index is not None:
            self._blocks[index] = number
        return number

    def _odd(self, data: bytes) -> Sequence[Delta]:
        """JSON without a type, which some providers send for an error, or no JSON object at all."""
        try:
            message = error_of(orjson.loads(data))
        except ValueError:
            message = None
        if message is not None:
            raise ProviderFailed(f"the provider reported an error in its answer: {message}")
        return self._malformed()

    def _malformed(self) -> Sequence[Delta]:
        self.body = None
        self.malformed += 1
        return _NOTHING


def error_of(body: Any) -> str | None:
    """The message of an error that stands in an answer; None when there is none."""
    error = body.get("error") if isinstance(body, dict) else None
    if not error:
        return "the provider did not say which" if isinstance(body, dict) and body.get("type") == "error" else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500] if message else "the provider reported an error without a message"


def error_type_of(body: Any) -> str | None:
    """The kind of such an error, in Anthropic's words."""
    error = body.get("error") if isinstance(body, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else None


def refusal_of(holder: Body) -> str | None:
    """Why the model declined, in words, when they are given."""
    match holder.get("stop_details"):
        case {"type": "refusal", "explanation": str(words)} if words:
            return words
    return None
