"""Makes the events of a Messages stream out of deltas.

Blocks here must not overlap. Tool calls of formats that interleave them are put in a row: one block is open, those
behind it wait with what they have, and the next one opens when the one before can grow no more.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from ....kernel.ids import new_id
from ...dialogue import (
    Began,
    Delta,
    MediaDelta,
    RefusalDelta,
    Request,
    Stop,
    Stopped,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
)
from ...models import Usage
from ..base import Body
from .blocks import show_call, show_text, shown_id
from .thoughts import ORIGIN, sealed
from .usage import message_usage, write_stop, write_usage

# Whether arguments are complete is tried on every piece only up to this many characters, so that a provider cannot make
# it dear; longer ones are tried when something waits for them anew.
_TRIED = 65_536


@dataclass(slots=True, eq=False)
class _Block:
    """`head` is the block as it starts; `waiting` its pieces while it is not open; `arguments` a tool's, so far;
    `thought` what its signature is made of when it ends."""

    head: Body
    waiting: list[Body] = field(default_factory=list)
    thought: Thinking | None = None
    arguments: list[str] = field(default_factory=list)
    size: int = 0
    closed: bool = False

    @property
    def kind(self) -> str:
        return str(self.head["type"])

    def complete(self) -> bool:
        """Whether it can grow no more once another one began. A tool's arguments are one JSON object."""
        if self.kind != "tool_use":
            return True
        try:
            return isinstance(orjson.loads("".join(self.arguments)), dict)
        except ValueError:
            return False


class MessageWriter:
    """A Writer. Everything leaves at once, except the pieces of blocks whose turn has not come."""

    def __init__(self, request: Request) -> None:
        self._model = request.model
        self._started = False
        self._blocks: dict[int, _Block] = {}
        self._queue: deque[_Block] = deque()
        self._open: _Block | None = None
        self._index = -1
        self._stop: Stop | None = None
        self._sequence: str | None = None
        self._tools = self._refused = False

    def feed(self, deltas: Iterable[Delta]) -> list[Body]:
        """Events that may leave at once."""
        out: list[Body] = []
        for delta in deltas:
            if getattr(delta, "choice", 0):
                # This format has one answer.
                continue
            match delta:
                case TextDelta():
                    self._text(delta.block, delta.text, out)
                case ToolDelta():
                    self._arguments(delta, out)
                case ThinkingDelta():
                    self._thought(delta, out)
                case MediaDelta():
                    self._text(delta.block, delta.media.note, out)
                case ToolBegan():
                    self._tool(delta, out)
                case RefusalDelta():
                    self._refused = True
                    self._text(delta.block, delta.text, out)
                case Began():
                    self._start(delta.id, delta.model, delta.usage, out)
                case Stopped():
                    self._stop, self._sequence = delta.stop, delta.sequence
                    self._drain(out)
        return out

    def end(self, usage: Usage) -> list[Body]:
        """The events that end the answer; they leave when the call is settled. `usage` is what was billed."""
        out: list[Body] = []
        self._drain(out)
        reason = write_stop(self._stop, tools=self._tools, refused=self._refused)
        sequence = self._sequence if reason == "stop_sequence" else None
        out.append(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": write_usage(usage),
            }
        )
        out.append({"type": "message_stop"})
        return out

    def _start(self, name: str, model: str, usage: Usage | None, out: list[Body]) -> None:
        if self._started:
            return
        self._started = True
        message: Body = {
            "id": name or f"msg_{new_id().hex}",
            "type": "message",
            "role": "assistant",
            "model": model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": message_usage(usage or Usage()),
        }
        out.append({"type": "message_start", "message": message})

    def _text(self, number: int, text: str, out: list[Body]) -> None:
        if not text:
            return
        block = self._growing(number, "text")
        if block is None:
            block = self._new(number, show_text(""), out)
        self._piece(block, {"type": "text_delta", "text": text}, out)

    def _thought(self, delta: ThinkingDelta, out: list[Body]) -> None:
        if delta.redacted and delta.origin == ORIGIN:
            self._new(delta.block, {"type": "redacted_thinking", "data": delta.signature or ""}, out)
            return
        block = self._growing(delta.block, "thinking")
        if block is None:
            if not delta.text and not delta.signature:
                return
            block = self._new(delta.block, {"type": "thinking", "thinking": "", "signature": ""}, out)
        known = block.thought or Thinking("")
        block.thought = Thinking(
            "",
            delta.signature or known.signature,
            delta.redacted or known.redacted,
            delta.origin or known.origin,
            delta.id or known.id,
        )
        if delta.text:
            self._piece(block, {"type": "thinking_delta", "thinking": delta.text}, out)

    def _tool(self, delta: ToolBegan, out: list[Body]) -> None:
        self._tools = True
        self._new(
            delta.block,
            show_call(shown_id(delta.id, delta.signature), delta.name, {}),
            out,
        )

    def _arguments(self, delta: ToolDelta, out: list[Body]) -> None:
        block = self._growing(delta.block, "tool_use")
        if block is None or not delta.arguments:
            # It was complete: what follows can only be white space.
            return
        block.arguments.append(delta.arguments)
        block.size += len(delta.arguments)
        self._piece(block, {"type": "input_json_delta", "partial_json": delta.arguments}, out)
        if self._queue and block is self._open and block.size <= _TRIED and delta.arguments.rstrip().endswith("}"):
            self._advance(out)

    def _growing(self, number: int, kind: str) -> _Block | None:
        block = self._blocks.get(number)
        return block if block is not None and not block.closed and block.kind == kind else None

    def _new(self, number: int, head: Body, out: list[Body]) -> _Block:
        self._start("", "", None, out)
        block = self._blocks[number] = _Block(head)
        self._queue.append(block)
        self._advance(out)
        return block

    def _piece(self, block: _Block, delta: Body, out: list[Body]) -> None:
        if block is self._open:
            out.append({"type": "content_block_delta", "index": self._index, "delta": delta})
        else:
            block.waiting.append(delta)

    def _advance(self, out: list[Body], whatever: bool = False) -> None:
        """Opens the blocks that wait, each when the one before it is complete, or `whatever` it is."""
        while self._queue:
            if self._open is not None:
                if not whatever and not self._open.complete():
                    return
                self._close(out)
            block = self._open = self._queue.popleft()
            self._index += 1
            out.append({"type": "content_block_start", "index": self._index, "content_block": block.head})
            waiting, block.waiting = block.waiting, []
            for delta in waiting:
                self._piece(block, delta, out)

    def _drain(self, out: list[Body]) -> None:
        self._start("", "", None, out)
        self._advance(out, whatever=True)
        self._close(out)

    def _close(self, out: list[Body]) -> None:
        block = self._open
        if block is None:
            return
        if block.thought is not None and (signature := sealed(block.thought)):
            self._piece(block, {"type": "signature_delta", "signature": signature}, out)
        out.append({"type": "content_block_stop", "index": self._index})
        block.closed = True
        self._open = None
