"""How much a Messages request may read: a bound for budgets, and an estimate for those who ask for a count."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..base import Body

# What a picture or a document costs cannot be seen from its bytes. Reserved for each: more than the dearest picture;
# for a document, a token for eight characters of its base64, which is more than a dense page of PDF comes to.
_PICTURE_BOUND = 8_192
_DOCUMENT_BOUND = 32_768
_MOST_BOUND = 1_000_000
# What Anthropic's documentation gives for a picture of full size, and for each page of a PDF about as much again.
_PICTURE_ESTIMATE = 1_600
_BYTES_PER_TOKEN = 4
_PER_MESSAGE = 16


def input_bound(body: Body, size: int) -> int:
    """At most so many input tokens. `size`: bytes of the body; a token has at least one byte."""
    media = list(_media(body.get("messages")))
    hidden = sum(len(data) for _, data in media)
    reserved = sum(_media_bound(kind, len(data)) for kind, data in media)
    return max(0, size - hidden) + reserved + _PER_MESSAGE * len(body["messages"])


def media_count(body: Body) -> int:
    return sum(1 for _ in _media(body.get("messages")))


def estimate(body: Body) -> int:
    """About how many tokens the request reads: four bytes of text each, as in ordinary English, and 1,600 for each
    picture or document of unknown length."""
    total, media = 0, 0
    for name in ("system", "messages", "tools"):
        values: list[Any] = [body.get(name)]
        while values:
            value = values.pop()
            if isinstance(value, str):
                total += len(value.encode(errors="replace"))
            elif isinstance(value, list):
                values += value
            elif isinstance(value, dict):
                if (found := _medium(value)) is not None:
                    kind, data = found
                    media += max(_PICTURE_ESTIMATE, len(data) // 16 if kind == "document" else 0)
                    continue
                total += sum(map(len, value))
                values += value.values()
            elif value is not None:
                total += len(str(value))
    return (total + _BYTES_PER_TOKEN - 1) // _BYTES_PER_TOKEN + media


def _media(messages: Any) -> Iterator[tuple[str, str]]:
    """Every picture and document, as its kind and its base64, which is empty when it is not in the body."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            yield from _in_block(block)


def _in_block(block: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(block, dict):
        return
    if (found := _medium(block)) is not None:
        yield found
    elif isinstance(inner := block.get("content"), list):
        # What a tool gave back may hold pictures as well.
        for part in inner:
            if isinstance(part, dict) and (found := _medium(part)) is not None:
                yield found


def _medium(block: Mapping[str, Any]) -> tuple[str, str] | None:
    match block:
        case {"type": "image" | "document" as kind, "source": {"type": "base64", "data": str(data)}}:
            return str(kind), data
        case {"type": "image" | "document" as kind, "source": {"type": "url" | "file"}}:
            return str(kind), ""
    return None


def _media_bound(kind: str, length: int) -> int:
    if kind == "image":
        return _PICTURE_BOUND
    return min(max(_DOCUMENT_BOUND, length // 8), _MOST_BOUND)
