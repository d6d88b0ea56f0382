"""Thoughts of other formats, carried by clients of the Responses API who know only `encrypted_content`.

A client gives reasoning items back as it got them. What another format needs to see again (a signature, a redacted
thought, the signature of a tool call) therefore travels in them, sealed with the name of the format that it came from,
and comes out as it was. A seal hides nothing and proves nothing: the provider who made a signature checks it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import orjson

from ...dialogue import Thinking

ORIGIN = "openai-responses"
_PREFIX = "backstay-sealed:"


class SealBroken(ValueError):
    """Something begins like a seal and cannot be opened."""


def sealed(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_PREFIX)


def seal(thought: Thinking) -> str | None:
    """What stands for `thought` in `encrypted_content`; None when nothing opaque belongs to it."""
    if thought.origin == ORIGIN:
        return thought.signature
    if thought.origin is None or (thought.signature is None and not thought.redacted):
        return None
    content: dict[str, Any] = {"origin": thought.origin, "signature": thought.signature}
    if thought.redacted:
        # The text of a redacted thought is as opaque as its signature, so it is no summary for anyone to read.
        content |= {"redacted": True, "text": thought.text}
    return _closed(content)


def seal_call(call: str, signature: str) -> str:
    """What stands in `encrypted_content` beside the tool call with the id `call`."""
    return _closed({"call": call, "signature": signature})


def open_thought(encrypted: str | None, text: str, id: str | None) -> Thinking | tuple[str, str]:
    """The thought of a reasoning item; or the id of a tool call and its signature, when that is what was sealed.

    Raises:
        SealBroken: the seal was changed or cut off.
    """
    if not sealed(encrypted):
        return Thinking(text, encrypted, origin=ORIGIN, id=id)
    content = _opened(str(encrypted))
    call, signature = content.get("call"), content.get("signature")
    if isinstance(call, str) and isinstance(signature, str):
        return call, signature
    origin, hidden = content.get("origin"), content.get("text", "")
    if not isinstance(origin, str) or not isinstance(signature, str | None) or not isinstance(hidden, str):
        raise SealBroken
    if content.get("redacted") is True:
        return Thinking(hidden, signature, redacted=True, origin=origin)
    return Thinking(text, signature, origin=origin)


def _closed(content: dict[str, Any]) -> str:
    return _PREFIX + urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


def _opened(seal: str) -> dict[str, Any]:
    code = seal.removeprefix(_PREFIX)
    try:
        content = orjson.loads(urlsafe_b64decode(code + "=" * (-len(code) % 4)))
    except ValueError:
        raise SealBroken from None
    if not isinstance(content, dict):
        raise SealBroken
    return content
