"""A request in one canonical form: two that ask the same are equal, whatever the order of their keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from ...kernel.errors import Invalid

# What does not change an answer: how it is sent, for whom it is, and where a provider may keep its prompt cache.
LEFT_OUT = frozenset(
    {
        "metadata",
        "model",  # told beside the body: as it was asked for
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "stream",
        "stream_options",
        "user",
    }
)
# With these a request changes something at the provider or rests on what is there, so another one is not the same.
_STATEFUL = ("background", "conversation", "previous_response_id", "store")
_FORM = 1
_MAX_TURN = 8_000  # characters: the meaning of a longer text does not fit one vector


class Surface(StrEnum):
    """The client's format. An answer is kept in it, so each has its own."""

    CHAT = "chat/completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    GENERATE = "generateContent"
    EMBEDDINGS = "embeddings"
    EMBED_CONTENT = "embedContent"


# Where the turns stand, and in a turn its content. Embeddings have none: a vector is good for its own text only.
_TURNS = {
    Surface.CHAT: ("messages", "content"),
    Surface.RESPONSES: ("input", "content"),
    Surface.MESSAGES: ("messages", "content"),
    Surface.GENERATE: ("contents", "parts"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """`model`: as asked for, with the revision of its route if it has one. `body`: in the client's format, after the
    guards. `headers`: those that go to the provider and change what it answers, such as `anthropic-beta`.
    """

    surface: Surface
    model: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def repeatable(self) -> bool:
        """An earlier answer to the same words would do."""
        return not any(self.body.get(name) for name in _STATEFUL)

    def whole(self) -> bytes:
        """The canonical form.

        Raises:
            Invalid: the body holds what JSON cannot (422).
        """
        return self._canonical(self.body)

    def parted(self) -> tuple[bytes, str] | None:
        """The canonical form without the words of the last user turn, and those words.

        None when there is no such turn, or it is more than words (a picture, a tool's result), or is very long.
        """
        if self.surface not in _TURNS:
            return None
        place, content = _TURNS[self.surface]
        turns = self.body.get(place)
        if isinstance(turns, str):
            found: tuple[Any, str] | None = (None, turns)
        else:
            found = _without_last_words(turns, content) if isinstance(turns, list) else None
        if found is None or not found[1].strip() or len(found[1]) > _MAX_TURN:
            return None
        return self._canonical({**self.body, place: found[0]}), found[1]

    def _canonical(self, body: Mapping[str, Any]) -> bytes:
        content = {name: value for name, value in body.items() if name not in LEFT_OUT}
        told = [_FORM, self.surface, self.model, dict(self.headers), content]
        try:
            return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
        except TypeError as error:
            raise Invalid(f"the request holds what JSON cannot: {error}") from None


def _without_last_words(turns: list[Any], content: str) -> tuple[list[Any], str] | None:
    for at in reversed(range(len(turns))):
        turn = turns[at]
        if isinstance(turn, Mapping) and turn.get("role", "user") == "user" and content in turn:
            words = _words(turn[content])
            if words is None:
                return None
            rest, text = words
            return [*turns[:at], {**turn, content: rest}, *turns[at + 1 :]], text
    return None


def _words(content: Any) -> tuple[Any, str] | None:
    """What is left of a turn's content without its words, and the words; None when there is more than words."""
    if isinstance(content, str):
        return None, content
    if not isinstance(content, list):
        return None
    rest, texts = [], []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type", "text") not in ("text", "input_text"):
            return None
        if not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
        rest.append({**part, "text": None})
    return rest, "\n".join(texts)
