"""The list of models, in each format's shape."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import orjson

from ..kernel.errors import NotFound
from .client import Client
from .surfaces import family

_PLACES = ("/v1/models", "/v1beta/models")
_LONG_AGO = "1970-01-01T00:00:00Z"


def asks(client: Client) -> bool:
    """The path is the list's, or that of one model in it; Gemini posts to models, with a method behind their names."""
    return client.path in _PLACES or (
        client.path.startswith(tuple(f"{place}/" for place in _PLACES)) and client.method == "GET"
    )


def answer(client: Client, models: Sequence[tuple[str, str]]) -> bytes:
    """The list of (name, owner), or the one model that the path names.

    Raises:
        NotFound: there is none of that name in the list.
    """
    place = next(place for place in _PLACES if client.path.startswith(place))
    form = family(client.path, client.headers)
    name = unquote(client.path.removeprefix(place).removeprefix("/"))
    if not name:
        return orjson.dumps(_list([_shape(form, *model) for model in models], form))
    found = next((model for model in models if name in (model[0], _bare(model[0]))), None)
    if found is None:
        raise NotFound(f"there is no model {name!r} in the list")
    return orjson.dumps(_shape(form, *found))


def _bare(name: str) -> str:
    """OpenAI's models may be named as its own client names them."""
    return name.removeprefix("openai:")


def _shape(form: str, name: str, owner: str) -> dict[str, Any]:
    if form == "anthropic":
        return {"type": "model", "id": name, "display_name": name, "created_at": _LONG_AGO}
    if form == "gemini":
        methods = ["generateContent", "countTokens"]
        return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _list(models: list[dict[str, Any]], form: str) -> dict[str, Any]:
    if form == "anthropic":
        ends = (models[0]["id"], models[-1]["id"]) if models else (None, None)
        return {"data": models, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
    return {"models": models} if form == "gemini" else {"object": "list", "data": models}
