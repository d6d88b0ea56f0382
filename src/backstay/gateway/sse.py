"""Server-sent events, read from bytes that may be cut anywhere."""

from collections.abc import Iterator

import orjson

MAX_EVENT_BYTES = 16 * 1024 * 1024
_MAX_BARE_BYTES = 64 * 1024


class EventTooLarge(ValueError):
    """One event is larger than MAX_EVENT_BYTES: the other side does not speak SSE."""


class SseParser:
    """Feeds on chunks and yields the `data` of each complete event as bytes.

    Lines end in LF, CRLF or CR. Comments and fields other than `data` are passed over; several `data` lines of one
    event are joined by LF. An event that the stream's end cuts off is not yielded, as the standard says, unless the
    reader asks for it with `rest()`.

    An error that stands bare in the stream, outside of any event and mostly over several lines, is yielded as an event
    would be: that is how Google breaks off a stream. Any other line that is no field is passed over.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_newline = False
        self._bare = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._skip_newline and chunk:
            # A CR ended the last chunk and its line; a LF right after it belongs to the same line end.
            chunk = chunk[1:] if chunk[:1] == b"\n" else chunk
            self._skip_newline = False
        buffer = self._buffer + chunk if self._buffer else chunk
        if b"\r" in buffer:
            if buffer[-1:] == b"\r":
                self._skip_newline = True
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._buffer = buffer.split(b"\n")
        if self._size + len(self._buffer) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            if line:
                self._line(line)
                if self._bare:
                    yield from self._error()
            elif self._data:
                yield self._take()
        if self._buffer and (self._bare or self._buffer[:1] in b"{["):
            # A bare error is mostly the last that comes, and may lack the end of its last line.
            yield from self._error(self._buffer)

    def rest(self) -> bytes | None:
        """The event which the end of the transport left without its blank line, if there is one."""
        if self._buffer:
            self._line(self._buffer)
            self._buffer = b""
        return self._take() if self._data else None

    def _error(self, last: bytes = b"") -> Iterator[bytes]:
        """The bare error, when it is whole; first the event before it, which it cut off."""
        error = bare_error(self._bare + last)
        if error is None:
            return
        self._bare = b""
        if last:
            self._buffer = b""
        if self._data:
            yield self._take()
        yield error

    def _line(self, line: bytes) -> None:
        if line[:5] == b"data:":
            value = line[6:] if line[5:6] == b" " else line[5:]
        elif line == b"data":
            value = b""
        else:
            self._outside(line)
            return
        self._bare = b""
        self._data.append(value)
        self._size += len(value)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")

    def _outside(self, line: bytes) -> None:
        """A line without data: perhaps one of a bare error."""
        if self._bare or line[:1] in b"{[":
            self._bare += line + b"\n"
            if len(self._bare) > _MAX_BARE_BYTES:
                self._bare = b""

    def _take(self) -> bytes:
        event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data, self._size = [], 0
        return event


def bare_error(text: bytes) -> bytes | None:
    """The error in a JSON text, as one line; None when it is not whole, or something else. Google puts one into a list
    where its clients expect a list."""
    if text.rstrip()[-1:] not in (b"}", b"]"):
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if isinstance(found, list) and found:
        found = found[-1]
    return orjson.dumps(found) if isinstance(found, dict) and found.get("error") else None


def event(data: bytes) -> bytes:
    """One event on the wire. `data` holds no line end (JSON written compactly never does)."""
    return b"data: " + data + b"\n\n"


PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
