"""Thoughts as blocks. Anthropic's own go back to it unmodified.

A thought of another format goes to a client of this one inside a signature of ours, and comes back from there whole, so
that its own provider can have it again.
"""

from typing import Any

import orjson

from ...dialogue import Thinking
from ..base import Body
from ..values import maybe_string, string

ORIGIN = "anthropic"
KINDS = ("thinking", "redacted_thinking")
_SEAL = "backstay:"


def read_thought(block: Body, at: str) -> Thinking:
    """A thought that stands in a request."""
    if block["type"] == "redacted_thinking":
        return Thinking("", string(block.get("data"), f"{at}.data"), redacted=True, origin=ORIGIN)
    text = string(block.get("thinking"), f"{at}.thinking")
    return _unsealed(text, maybe_string(block.get("signature"), f"{at}.signature"))


def write_thought(thought: Thinking) -> Body | None:
    """The block for Anthropic; None for a thought that it did not sign, as it would refuse the request for it."""
    if thought.origin != ORIGIN or not thought.signature:
        return None
    return show_thought(thought)


def show_thought(thought: Thinking) -> Body:
    """The block for a client."""
    if thought.redacted and thought.origin == ORIGIN:
        return {"type": "redacted_thinking", "data": thought.signature or ""}
    return {"type": "thinking", "thinking": thought.text, "signature": sealed(thought)}


def sealed(thought: Thinking) -> str:
    """The signature under which a client keeps a thought; empty when there is nothing to keep."""
    if thought.origin == ORIGIN:
        return thought.signature or ""
    if thought.origin is None or not (thought.signature or thought.id):
        return ""
    return _SEAL + orjson.dumps([thought.origin, thought.signature, thought.redacted, thought.id]).decode()


def _unsealed(text: str, signature: str | None) -> Thinking:
    # Without a signature it is nobody's: no model takes it back.
    if not signature:
        return Thinking(text)
    if not signature.startswith(_SEAL):
        return Thinking(text, signature, origin=ORIGIN)
    try:
        kept = orjson.loads(signature[len(_SEAL) :])
    except orjson.JSONDecodeError:
        return Thinking(text)
    match kept:
        case [str(origin), None | str(), bool(), None | str()] if origin != ORIGIN:
            return Thinking(text, kept[1], kept[2], origin, kept[3])
    return Thinking(text)


def without_foreign_thoughts(body: Body) -> Body:
    """The request as Anthropic can take it: without the thoughts that other models had earlier in the conversation.

    For a request that is relayed as it came. `body` itself when there is nothing to take out, which is nearly always.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not any(_has_foreign(message) for message in messages):
        return body
    kept: list[Any] = []
    for message in messages:
        if _has_foreign(message):
            content = [block for block in message["content"] if not _is_foreign(block)]
            if not content:
                continue
            message = message | {"content": content}
        kept.append(message)
    return body | {"messages": kept}


def _has_foreign(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(_is_foreign(block) for block in content)


def _is_foreign(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    signature = block.get("signature")
    return not signature or (isinstance(signature, str) and signature.startswith(_SEAL))
