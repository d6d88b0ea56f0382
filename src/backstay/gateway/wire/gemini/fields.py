"""How a Gemini request names its fields. Google reads each name in two styles, `maxOutputTokens` and
`max_output_tokens`; so do we. A field that is given in both is refused: which of the two counts would be a guess, and a
budget must not hang on it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ....kernel.errors import BadRequest
from ..fields import wrong

_UPPER = re.compile(r"([A-Z])")


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a request, which stands at `at`. Null is as good as absent, as everywhere in Google's JSON.

    Raises:
        BadRequest: by every method, when the field has another type; the error names it with its path (400).
    """

    body: Mapping[str, Any]
    at: str = ""

    def value(self, name: str) -> Any:
        other = _snake(name)
        if other == name or other not in self.body:
            return self.body.get(name)
        if name in self.body:
            raise self.wrong(name, f"is given twice, as {name} and as {other}; give it once")
        return self.body[other]

    def path(self, name: str) -> str:
        return f"{self.at}.{name}" if self.at else name

    def wrong(self, name: str, message: str) -> BadRequest:
        return wrong(self.path(name), message)

    def object(self, name: str) -> "Fields | None":
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return Fields(value, self.path(name))

    def required(self, name: str) -> "Fields":
        found = self.object(name)
        if found is None:
            raise self.wrong(name, "must be an object")
        return found

    def items(self, name: str) -> list[Any]:
        """The items; one alone stands for a list of one, as Google reads it."""
        value = self.value(name)
        if value is None:
            return []
        return value if isinstance(value, list) else [value]

    def objects(self, name: str) -> "list[Fields]":
        found = []
        for index, item in enumerate(self.items(name)):
            if not isinstance(item, dict):
                raise self.wrong(f"{name}[{index}]", "must be an object")
            found.append(Fields(item, self.path(f"{name}[{index}]")))
        return found

    def text(self, name: str) -> str | None:
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "must be a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.items(name)
        if not all(isinstance(item, str) for item in items):
            raise self.wrong(name, "must be a list of texts")
        return tuple(items)

    def truth(self, name: str) -> bool | None:
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def number(self, name: str) -> float | None:
        value = self.value(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.wrong(name, "must be a number")
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        """A whole number; 256, 256.0 and "256" are the same one in Google's JSON."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) < 20:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(name, f"must be a whole number from {least} to {most}")
        return value


@cache
def _snake(name: str) -> str:
    return _UPPER.sub(r"_\1", name).lower()
