"""Texts of models and tools, as Postgres and a model's window can take them."""

from typing import Any

import orjson


def without_nul(text: str) -> str:
    """NUL is legal in JSON and in no text of Postgres."""
    return text.replace("\x00", "\ufffd")


def json_without_nul(text: str) -> str:
    """The same for the values inside a JSON text; a text that is no JSON stays as it is."""
    text = without_nul(text)
    if "\\u0000" not in text:
        return text
    try:
        return orjson.dumps(_cleaned(orjson.loads(text))).decode()
    except orjson.JSONDecodeError:
        return text


def bounded(text: str, most: int) -> str:
    """At most `most` characters of `text`, and a note when that is not all of it."""
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[cut: the first {most} of {len(text)} characters]"


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_nul(value)
    if isinstance(value, dict):
        return {without_nul(key): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value
