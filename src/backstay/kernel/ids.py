"""Identifiers that sort by the time they were made."""

import os
import threading
import time
from uuid import UUID

_RANDOM_BITS = 74
_BYTES, _AT_ONCE = 14, 256  # each draw from the system gives up the interpreter, and may wait long to have it again
_lock = threading.Lock()
_last = 0
_drawn: list[int] = []
os.register_at_fork(after_in_child=_drawn.clear)  # a child draws its own


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits.

    New rows land at the end of a primary key's index instead of all over it. Those of one process rise strictly, also
    within a millisecond and when the clock is set back: what was recorded first is listed first.
    """
    global _last
    millis = (time.time_ns() // 1_000_000) & 0xFFFF_FFFF_FFFF
    with _lock:
        if not _drawn:
            data = os.urandom(_BYTES * _AT_ONCE)
            _drawn.extend(int.from_bytes(data[at : at + _BYTES], "big") for at in range(0, len(data), _BYTES))
        random = _drawn.pop()
        _last = max(millis << _RANDOM_BITS | (random >> 38), _last + 1 + (random & 0xFFFF_FFFF))
        bits = _last
    value = (bits >> _RANDOM_BITS) << 80
    value |= 0x7 << 76 | ((bits >> 62) & 0xFFF) << 64
    value |= 0b10 << 62 | bits & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(int=value)
