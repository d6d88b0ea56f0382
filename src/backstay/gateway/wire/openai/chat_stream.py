"""Streams of chat completions: read, relayed, written."""

import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from ...dialogue import (
    Began,
    Delta,
    MediaDelta,
    RefusalDelta,
    Stop,
    Stopped,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    Used,
)
from ...errors import ProviderFailed
from ...models import Usage
from ..base import Body, Reader
from .errors import error_of
from .words import FINISH, STOPS, detail_of, image, images_of, reasoning_of, tool_id, usage_as_openai, usage_of

_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')
_TEXT, _REFUSAL, _THOUGHT = "text", "refusal", "thought"


class ChatReader:
    """Follows the chunks of one completion, of one or several choices."""

    def __init__(self) -> None:
        self.body: Body | None = None
        self.done = self.used = self.final = False
        self.malformed = self.searches = 0
        self._began = False
        self._blocks: dict[tuple[int, Any], int] = {}

    def feed(self, data: bytes) -> Sequence[Delta]:
        if data == b"[DONE]":
            self.done, self.body = True, None
            return ()
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            self.malformed += 1
            self.body = None
            return ()
        self.body = body
        if "error" in body and (message := error_of(body)) is not None:
            raise ProviderFailed(f"the provider reported an error in its answer: {message}")
        out: list[Delta] = []
        choices = body.get("choices")
        if not self._began and choices:
            self._began = True
            created = body.get("created")
            head = str(body.get("id") or ""), str(body.get("model") or "")
            out.append(Began(*head, created=created if isinstance(created, int) else 0))
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._choice(choice, out)
        if body.get("usage") is not None and (usage := usage_of(body)) is not None:
            self.used = True
            out.append(Used(usage))
        return out

    def _choice(self, choice: Body, out: list[Delta]) -> None:
        index = choice.get("index")
        number = index if isinstance(index, int) else 0
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._delta(number, delta, out)
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            out.append(Stopped(STOPS.get(reason, Stop.END), choice=number))

    def _delta(self, choice: int, delta: Body, out: list[Delta]) -> None:
        content = delta.get("content")
        if isinstance(content, str) and content:
            out.append(TextDelta(self._block(choice, _TEXT), content, choice))
        if len(delta) == 1 and "content" in delta:
            return  # the common case
        for thought in reasoning_of(delta):
            block = self._block(choice, _THOUGHT)
            told = thought.text, thought.signature, thought.redacted, thought.origin, thought.id
            out.append(ThinkingDelta(block, *told, choice=choice))
        if "images" in delta:
            for media in images_of(delta):
                # Each is a block of its own.
                out.append(MediaDelta(self._block(choice, f"image {len(self._blocks)}"), media, choice))
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            out.append(RefusalDelta(self._block(choice, _REFUSAL), refusal, choice))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._tool(choice, call, out)
        audio = delta.get("audio")
        if isinstance(audio, dict):
            said = audio.get("transcript")
            out.append(TextDelta(self._block(choice, _TEXT), said if isinstance(said, str) else "", choice))

    def _tool(self, choice: int, call: Body, out: list[Delta]) -> None:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        index = call.get("index")
        key = (choice, index if isinstance(index, int) else 0)
        if key not in self._blocks:
            self._blocks[key] = len(self._blocks)
            out.append(
                ToolBegan(self._blocks[key], str(call.get("id") or ""), str(function.get("name") or ""), choice=choice)
            )
        arguments = function.get("arguments")
        if isinstance(arguments, str) and arguments:
            out.append(ToolDelta(self._blocks[key], arguments, choice))

    def _block(self, choice: int, kind: str) -> int:
        key = (choice, kind)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = len(self._blocks)
        return block


def shown(reader: Reader, data: bytes, include_usage: bool) -> bytes | None:
    """The chunk that was just read, for a client of the same format.

    Usage is asked for upstream in any case; for a client who did not ask, the chunk that carries nothing else and the
    empty `usage` of all others are taken out. Everything else passes as it came.
    """
    body = reader.body
    if body is None:
        return None
    if not include_usage and "usage" in body:
        if not body.get("choices"):
            return None
        if body["usage"] is None:
            # Not written anew, so that nothing else changes.
            data = _NULL_USAGE.sub(b"", data)
            del body["usage"]
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")  # JSON over several lines leaves as several lines of data
    return b"data: " + data + b"\n\n"


class ChatWriter:
    """Writes one completion's chunks."""

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head: Body = {}
        self._tools: dict[tuple[int, int], int] = {}
        self._thoughts: dict[tuple[int, int], str] = {}
        self._images: dict[int, int] = {}

    def feed(self, deltas: Iterable[Delta]) -> list[Body]:
        return [event for delta in deltas if (event := self._event(delta)) is not None]

    def end(self, usage: Usage) -> list[Body]:
        if not self._include_usage:
            return []
        return [self._begun() | {"choices": [], "usage": usage_as_openai(usage)}]

    def _event(self, delta: Delta) -> Body | None:
        if isinstance(delta, TextDelta):
            return self._chunk(delta.choice, {"content": delta.text})
        if isinstance(delta, ToolDelta):
            index = self._tools.get((delta.choice, delta.block), 0)
            return self._tool(delta.choice, {"index": index, "function": {"arguments": delta.arguments}})
        if isinstance(delta, ThinkingDelta):
            return self._chunk(delta.choice, self._thought(delta))
        if isinstance(delta, MediaDelta):
            return self._chunk(delta.choice, self._shown(delta))
        if isinstance(delta, RefusalDelta):
            return self._chunk(delta.choice, {"refusal": delta.text})
        if isinstance(delta, ToolBegan):
            index = self._tools[(delta.choice, delta.block)] = sum(key[0] == delta.choice for key in self._tools)
            function = {"name": delta.name, "arguments": ""}
            id = tool_id(delta.id, delta.signature)
            return self._tool(delta.choice, {"index": index, "id": id, "type": "function", "function": function})
        if isinstance(delta, Began):
            self._head = {
                "id": delta.id,
                "object": "chat.completion.chunk",
                "created": delta.created or int(time.time()),
                "model": delta.model,
            }
            return self._chunk(0, {"role": "assistant", "content": ""})
        if isinstance(delta, Stopped):
            return self._chunk(delta.choice, {}, FINISH[delta.stop])
        return None

    def _tool(self, choice: int, call: Body) -> Body:
        return self._chunk(choice, {"tool_calls": [call]})

    def _begun(self) -> Body:
        if not self._head:
            self._event(Began("", ""))
        return self._head

    def _chunk(self, choice: int, delta: Body, finish: str | None = None) -> Body:
        said = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}]
        chunk = self._begun() | {"choices": said}
        return chunk | {"usage": None} if self._include_usage else chunk

    def _shown(self, delta: MediaDelta) -> Body:
        index = self._images.get(delta.choice, 0)
        found = image(delta.media, index)
        if found is None:
            return {"content": delta.media.note}
        self._images[delta.choice] = index + 1
        return {"images": [found]}

    def _thought(self, delta: ThinkingDelta) -> Body:
        """A signed thought has to come back whole: its detail carries all of its text, however that was streamed."""
        key = (delta.choice, delta.block)
        text = self._thoughts[key] = self._thoughts.get(key, "") + delta.text
        detail = detail_of(Thinking(text, delta.signature, delta.redacted, delta.origin, delta.id))
        told: Body = {"reasoning_content": delta.text} if delta.text and not delta.redacted else {}
        return told | {"reasoning_details": [detail]} if detail is not None else told
