"""Server-sent events as a client reads them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its number, its type, and its data."""

    id: int
    type: str
    data: dict[str, Any]


class Parser:
    """Turns pieces of a body into events, however the pieces are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that are complete with this piece."""
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        for block in blocks:
            fields: dict[str, str] = {}
            for line in block.decode().split("\n"):
                name, colon, value = line.partition(":")
                if name and colon:  # a line that begins with a colon is a comment
                    fields[name] = value.removeprefix(" ")
            if "data" in fields:
                yield Event(int(fields["id"]), fields["event"], orjson.loads(fields["data"]))
