"""Server-sent events, read from bytes that may be cut anywhere."""

from collections.abc import Iterator

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event is larger than MAX_EVENT_BYTES: the other side does not speak SSE."""


class SseParser:
    """Feeds on chunks and yields the `data` of each complete event as bytes.

    Lines end in LF, CRLF or CR. Comments and fields other than `data` are passed over; several `data` lines of one
    event are joined by LF. An event that the stream's end cuts off is not yielded, as the standard says, unless the
    reader asks for it with `rest()`.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_newline = False

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
            elif self._data:
                yield self._take()

    def rest(self) -> bytes | None:
        """The event which the end of the transport left without its blank line, if there is one."""
        if self._buffer:
            self._line(self._buffer)
            self._buffer = b""
        return self._take() if self._data else None

    def _line(self, line: bytes) -> None:
        if line[:5] == b"data:":
            value = line[6:] if line[5:6] == b" " else line[5:]
        elif line == b"data":
            value = b""
        else:
            return
        self._data.append(value)
        self._size += len(value)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")

    def _take(self) -> bytes:
        event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data, self._size = [], 0
        return event


def event(data: bytes) -> bytes:
    """One event on the wire. `data` holds no line end (JSON written compactly never does)."""
    return b"data: " + data + b"\n\n"


PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
