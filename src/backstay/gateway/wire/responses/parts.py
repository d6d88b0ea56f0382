"""The parts of a message's content: texts, refusals, pictures and files."""

from collections.abc import Iterator
from typing import Any, Literal

from ....kernel.errors import BadRequest
from ...dialogue import Media, Refusal, Text
from .. import values
from ..base import Body
from ..fields import wrong
from . import fields as read

Role = Literal["user", "assistant"]
Content = Text | Media | Refusal
_TEXTS = ("input_text", "output_text", "text")
_CACHE = "prompt_cache_breakpoint"
_IMAGE, _FILE = "image/png", "application/pdf"
# Only what OpenAI reads as a file; the endings that it knows them by.
_ENDINGS = {
    "application/pdf": "pdf",
    "text/plain": "txt",
    "text/markdown": "md",
    "text/html": "html",
    "text/csv": "csv",
    "application/json": "json",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
}
_TYPES = {ending: type for type, ending in _ENDINGS.items()}


def parts(content: Any, path: str) -> Iterator[Content]:
    """Raises BadRequest for a part that is wrong."""
    if isinstance(content, str):
        yield Text(content)
        return
    if not isinstance(content, list):
        raise wrong(path, "must be a text or a list of parts")
    for index, part in enumerate(content):
        yield _part(values.mapping(part, f"{path}[{index}]"), f"{path}[{index}]")


def _part(part: Body, path: str) -> Content:
    kind = part.get("type")
    if kind in _TEXTS:
        return Text(values.string(part.get("text"), f"{path}.text"), _cache(part, path))
    if kind == "refusal":
        return Refusal(values.string(part.get("refusal"), f"{path}.refusal"))
    if kind == "input_image":
        return _image(part, path)
    if kind == "input_file":
        return _file(part, path)
    if kind == "input_audio":
        sound = values.mapping(part.get("input_audio"), f"{path}.input_audio")
        data = read.name(sound.get("data"), f"{path}.input_audio.data")
        return Media("audio", f"audio/{read.name(sound.get('format'), f'{path}.input_audio.format')}", data)
    raise wrong(f"{path}.type", "must be input_text, input_image, input_file, output_text or refusal")


def _image(part: Body, path: str) -> Media:
    url = values.maybe_string(part.get("image_url"), f"{path}.image_url")
    file = values.maybe_string(part.get("file_id"), f"{path}.file_id")
    if not url and not file:
        raise wrong(f"{path}.image_url", "must be a URL, or there must be a `file_id`")
    type, data = _data(url, f"{path}.image_url") if url and url.startswith("data:") else (None, None)
    detail = values.maybe_string(part.get("detail"), f"{path}.detail")
    return Media(
        "image",
        type,
        data,
        url=None if data is not None else url or None,
        file=file or None,
        detail=None if detail == "auto" else detail,
        cache=_cache(part, path),
    )


def _file(part: Body, path: str) -> Media:
    given = {key: values.maybe_string(part.get(key), f"{path}.{key}") for key in ("file_data", "file_url", "file_id")}
    name = values.maybe_string(part.get("filename"), f"{path}.filename")
    if not any(given.values()):
        raise wrong(f"{path}.file_data", "must be base64, or there must be a `file_url` or a `file_id`")
    type, data = None, given["file_data"] or None
    if data is not None:
        type = _TYPES.get((name or "").rpartition(".")[2].lower(), _FILE)
        if data.startswith("data:"):
            type, data = _data(data, f"{path}.file_data")
    cache = _cache(part, path)
    return Media("document", type, data, given["file_url"] or None, given["file_id"] or None, name, cache=cache)


def _data(url: str, path: str) -> tuple[str, str]:
    head, _, data = url.partition(",")
    type = head.removeprefix("data:").removesuffix(";base64").partition(";")[0]
    if not head.endswith(";base64") or not type or not data:
        raise wrong(path, "must look like data:image/png;base64,… when it is a data URL")
    return type, data


def _cache(part: Body, path: str) -> Body | None:
    """A breakpoint in the words of dialogue.py."""
    point = read.fields(part.get(_CACHE), f"{path}.{_CACHE}")
    if not point:
        return None
    return {"type": "ephemeral"} if point.get("ttl") != "12h" else {"type": "ephemeral", "ttl": "1h"}


def written(part: Content, role: Role) -> Body:
    if isinstance(part, Text):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.text}
    if isinstance(part, Refusal):
        if role == "user":
            return {"type": "input_text", "text": part.text}
        return {"type": "refusal", "refusal": part.text}
    if part.kind == "image":
        return _written_image(part)
    if part.kind == "document":
        return _written_file(part)
    raise _unsayable(part)


def _written_image(media: Media) -> Body:
    content: Body = {"type": "input_image", "detail": media.detail or "auto"}
    if media.data is not None:
        content["image_url"] = f"data:{media.type or _IMAGE};base64,{media.data}"
    elif media.url is not None:
        content["image_url"] = media.url
    else:
        content["file_id"] = media.file
    return content


def _written_file(media: Media) -> Body:
    content: Body = {"type": "input_file"}
    if media.data is not None:
        type = media.type or _FILE
        # The name is not optional beside data, and its ending tells OpenAI what the file is.
        content["filename"] = media.name or f"document.{_ENDINGS.get(type, 'bin')}"
        content["file_data"] = f"data:{type};base64,{media.data}"
    elif media.url is not None:
        content["file_url"] = media.url
    else:
        content["file_id"] = media.file
    return content


def _unsayable(media: Media) -> BadRequest:
    detail = f"the Responses API takes no {media.kind} at all; choose a model of another provider, or leave it out"
    return BadRequest(detail)
