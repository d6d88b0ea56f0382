"""Pictures and documents as blocks, both ways."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Literal

from ...dialogue import Media, Text
from ..base import Body
from ..fields import wrong
from ..values import mapping, maybe_string, string
from .fields import maybe_mapping

_PICTURES = {"image/jpg": "image/jpeg"}
_PLAIN = ("application/json", "application/xml", "application/x-yaml")


def read_image(block: Body, at: str) -> Media:
    return _read_source("image", mapping(block.get("source"), f"{at}.source"), at, cache=_cache(block, at))


def read_document(block: Body, at: str) -> Iterator[Text | Media]:
    """A document; its `context` goes before it as text, where no other format has a word for that."""
    source = mapping(block.get("source"), f"{at}.source")
    title, cache = maybe_string(block.get("title"), f"{at}.title"), _cache(block, at)
    if context := maybe_string(block.get("context"), f"{at}.context"):
        yield Text(context)
    if source.get("type") == "text":
        data = base64.b64encode(string(source.get("data"), f"{at}.source.data").encode()).decode()
        yield Media("document", "text/plain", data, name=title, cache=cache)
    else:
        yield _read_source("document", source, at, name=title, cache=cache)


def _read_source(kind: Literal["image", "document"], source: Body, at: str, **rest: Any) -> Media:
    at = f"{at}.source"
    match source.get("type"):
        case "base64":
            media_type = string(source.get("media_type"), f"{at}.media_type")
            return Media(kind, media_type, string(source.get("data"), f"{at}.data"), **rest)
        case "url":
            return Media(kind, url=string(source.get("url"), f"{at}.url"), **rest)
        case "file":
            return Media(kind, file=string(source.get("file_id"), f"{at}.file_id"), **rest)
    raise wrong(f"{at}.type", "must be base64, url or file; for a document also text or content")


def _cache(block: Body, at: str) -> Body | None:
    return maybe_mapping(block.get("cache_control"), f"{at}.cache_control")


def write_media(media: Media, at: str) -> Body:
    if media.kind not in ("image", "document"):
        raise wrong(at, f"{media.kind} cannot be given to Anthropic's models; they take pictures, PDF and plain text")
    block: Body = {"type": media.kind, "source": _source(media, at)}
    if media.kind == "document" and media.name:
        block["title"] = media.name
    return block


def _source(media: Media, at: str) -> Body:
    if media.data is not None:
        kind = _PICTURES.get(media.type or "", media.type)
        if kind is None:
            raise wrong(at, "must say its media type, such as image/png")
        if media.kind == "image" or kind == "application/pdf":
            return {"type": "base64", "media_type": kind, "data": media.data}
        if kind.startswith("text/") or kind in _PLAIN:
            return {"type": "text", "media_type": "text/plain", "data": _plain_text(media.data, at)}
        raise wrong(at, f"{kind[:60]} cannot be given to Anthropic's models; they take PDF and plain text")
    if media.url is not None:
        return {"type": "url", "url": media.url}
    if media.file is not None:
        return {"type": "file", "file_id": media.file}
    raise wrong(at, "must have data, a URL or the id of a file")


def _plain_text(data: str, at: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise wrong(at, "is not UTF-8 text in base64") from None
