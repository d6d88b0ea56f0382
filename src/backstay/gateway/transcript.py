"""Follows a streamed chat completion: what to pass on, what was said, what was used, and whether it ended well."""

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from .errors import ProviderFailed
from .models import Usage
from .wire import openai as wire

_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')


@dataclass(slots=True)
class _Choice:
    content: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    tools: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event to pass on: its bytes as they go to the client, and what they say."""

    data: bytes
    body: dict[str, Any]


class Transcript:
    """Feeds on the `data` of each event of one stream.

    `include_usage`: the client asked for usage, which is asked for upstream in any case; when it did not, the chunk
    that carries only usage and the empty `usage` of all others are taken out. Everything else passes as it came.
    """

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._choices: dict[int, _Choice] = {}
        self._head: dict[str, Any] = {}
        self.usage: Usage | None = None
        self.usage_passed = False
        self.done = False
        self.deltas = 0
        self.malformed = 0

    @property
    def finished(self) -> bool:
        """The provider gave a finish reason for every choice it began."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    def feed(self, data: bytes) -> Chunk | None:
        """The event to pass on, or None when the client is not to see it.

        Raises:
            ProviderFailed: the event is an error of the provider.
        """
        if data == b"[DONE]":
            self.done = True
            return None
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.malformed += 1
            return None
        if not isinstance(body, dict):
            self.malformed += 1
            return None
        if (message := wire.error_of(body)) is not None:
            raise ProviderFailed(f"the provider reported an error in its answer: {message}")
        choices = body.get("choices")
        if b'"usage"' in data and (usage := wire.usage_of(body)) is not None:
            self.usage = usage
            if not choices:
                self.usage_passed = self._include_usage
                return Chunk(data, body) if self._include_usage else None
        if isinstance(choices, list):
            if not self._head:
                self._head = {key: body.get(key) for key in ("id", "created", "model", "system_fingerprint")}
            for choice in choices:
                if isinstance(choice, dict):
                    self._follow(choice)
        if not self._include_usage and body.get("usage", data) is None:
            # Not written anew, so that nothing else changes.
            data = _NULL_USAGE.sub(b"", data)
            del body["usage"]
        return Chunk(data, body)

    def usage_chunk(self, usage: Usage) -> Chunk:
        """The usage chunk that a client asked for and the provider did not send."""
        body = self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage.as_openai()}
        return Chunk(orjson.dumps(body), body)

    def completion(self) -> dict[str, Any]:
        """The answer so far, as one completion."""
        choices = []
        for index, choice in sorted(self._choices.items()):
            message: dict[str, Any] = {"role": "assistant", "content": "".join(choice.content) or None}
            if choice.refusal:
                message["refusal"] = "".join(choice.refusal)
            if choice.tools:
                message["tool_calls"] = [choice.tools[number] for number in sorted(choice.tools)]
            choices.append({"index": index, "message": message, "finish_reason": choice.finish_reason})
        return self._head | {"object": "chat.completion", "choices": choices}

    def _follow(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        state = self._choices.setdefault(index if isinstance(index, int) else 0, _Choice())
        if isinstance(choice.get("finish_reason"), str):
            state.finish_reason = choice["finish_reason"]
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        said = False
        content = delta.get("content")
        if isinstance(content, str) and content:
            state.content.append(content)
            said = True
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            state.refusal.append(refusal)
            said = True
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                _follow_tool(state.tools, call)
                said = True
        # Reasoning comes under names of each provider's own; any text that is not the role is output.
        self.deltas += said or any(isinstance(v, str) and v for k, v in delta.items() if k not in ("role", "content"))


def _follow_tool(tools: dict[int, dict[str, Any]], call: dict[str, Any]) -> None:
    index = call.get("index")
    tool = tools.setdefault(
        index if isinstance(index, int) else len(tools),
        {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
    )
    if isinstance(call.get("id"), str):
        tool["id"] = call["id"]
    function = call.get("function")
    if isinstance(function, dict):
        for part in ("name", "arguments"):
            if isinstance(function.get(part), str):
                tool["function"][part] += function[part]
