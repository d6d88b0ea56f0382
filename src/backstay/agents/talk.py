"""A conversation in the OpenAI shape, as it grows."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..kernel.errors import BadRequest, FieldError
from .turn import Call, Result, Turn

_ROLES = ("system", "developer", "user", "assistant", "tool")
Message = dict[str, Any]


class Talk:
    """`messages` is the caller's own list: what is said from now on is appended to it. `instructions` go before it and
    are no part of it."""

    def __init__(self, instructions: str, messages: list[Message], text: str) -> None:
        self._instructions = instructions
        self.messages = messages
        self.messages.append({"role": "user", "content": text})

    def told(self) -> list[Message]:
        """What a model is sent."""
        opening = [{"role": "system", "content": self._instructions}] if self._instructions else []
        return opening + self.messages

    def said(self, turn: Turn) -> None:
        message: Message = {"role": "assistant", "content": turn.text or (None if turn.calls else "")}
        if turn.calls:
            message["tool_calls"] = [_call(call) for call in turn.calls]
        if turn.thoughts:
            message["reasoning_details"] = list(turn.thoughts)
        self.messages.append(message)

    def answered(self, calls: Iterable[Call], results: Iterable[Result]) -> None:
        for call, result in zip(calls, results, strict=True):
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result.text})

    def mend(self, wrong: str) -> None:
        """Tells the model what is wrong with its answer."""
        self.messages.append({"role": "user", "content": wrong})


def checked(history: Iterable[Mapping[str, Any]]) -> list[Message]:
    """A copy of a conversation.

    Raises:
        BadRequest: one of it is no message (400).
    """
    found = [dict(message) for message in history]
    for place, message in enumerate(found):
        if message.get("role") not in _ROLES:
            wrong = FieldError(f"history.{place}.role", f"must be one of {', '.join(_ROLES)}")
            raise BadRequest("the history is no conversation", errors=[wrong])
    return found


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
