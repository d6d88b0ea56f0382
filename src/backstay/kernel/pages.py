"""Keyset pages with opaque, signed cursors: page 10,000 costs what page 1 costs, and no row is shown twice."""

import base64
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel

from .crypto import Vault
from .errors import Invalid

T = TypeVar("T")
DEFAULT_LIMIT, MAX_LIMIT = 50, 200
_SIGNATURE_BYTES = 16


class InvalidCursor(Invalid):
    code, title = "invalid_cursor", "The cursor is not one of ours"


class PageRequest:
    """Which page is asked for: at most `limit` items after the key `after` (None: from the start)."""

    def __init__(self, vault: Vault, limit: int = DEFAULT_LIMIT, cursor: str | None = None, place: str = "") -> None:
        # A cursor continues the list it was made for (`place` is its path): the keys of another have other types.
        self._vault, self._place = vault, place.encode()
        self.limit = limit
        self.after: tuple[Any, ...] | None = None if cursor is None else self._decode(cursor)

    @property
    def after_id(self) -> UUID | None:
        """The key of a list that goes by id."""
        return UUID(self.after[0]) if self.after else None

    @property
    def after_name(self) -> str | None:
        """The key of a list that goes by name, or by ids that callers choose."""
        return str(self.after[0]) if self.after else None

    def encode(self, key: Sequence[Any]) -> str:
        """The cursor that continues after `key` (strings, numbers, datetimes, UUIDs)."""
        body = orjson.dumps(list(key))
        return _text(self._vault.sign(self._place + b"\0" + body) + body)

    def _decode(self, cursor: str) -> tuple[Any, ...]:
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if _text(raw) != cursor or not self._vault.signed(self._place + b"\0" + body, signature):
            raise InvalidCursor("use `next_cursor` of an earlier answer of this list, unchanged")
        return tuple(orjson.loads(body))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Page(BaseModel, Generic[T]):
    """Some items and, unless they were the last, the cursor of the next page."""

    items: list[T]
    next_cursor: str | None = None

    @classmethod
    def of(cls, items: Sequence[T], page: PageRequest, key: Callable[[T], Sequence[Any]]) -> "Page[T]":
        """The page made of `items`. Read `page.limit + 1` rows: the one too many says that there is a next page."""
        shown = list(items[: page.limit])
        more = len(items) > page.limit
        return cls(items=shown, next_cursor=page.encode(key(shown[-1])) if more else None)
