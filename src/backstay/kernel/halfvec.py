"""Vectors as pgvector's halfvec, in the binary form: as a text, each number would be written here and read there, which
costs more than storing or comparing the vector.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite

from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format


@dataclass(frozen=True, slots=True)
class Halfvec:
    """One vector. Write `%(e)s::public.halfvec`: the server learns the type from the cast."""

    data: bytes

    @classmethod
    def of(cls, vector: Sequence[float]) -> "Halfvec | None":
        """None for one that nothing can be near to: without a direction, or with numbers that a halfvec cannot hold."""
        if not isfinite(sum(vector)):
            return None
        layout = _layout(len(vector))
        try:
            data = layout.pack(len(vector), 0, *vector)
        except OverflowError:
            return None
        return cls(data) if any(data[4:]) else None

    def __str__(self) -> str:
        """As Postgres writes it, for a connection that knows texts only."""
        numbers = _layout(len(self.data) // 2 - 2).unpack(self.data)[2:]
        return f"[{','.join(map('{:.6g}'.format, numbers))}]"


@dataclass(frozen=True, slots=True)
class Halfvecs:
    """Several, as one array. `oid`: the number of the type halfvec in this database, which the server demands."""

    oid: int
    vectors: Sequence[Halfvec]


@cache
def _layout(dimensions: int) -> struct.Struct:
    return struct.Struct(f">hh{dimensions}e")


class _One(Dumper):
    format = Format.BINARY

    def dump(self, obj: Halfvec) -> bytes:
        return obj.data


class _Many(Dumper):
    format = Format.BINARY

    def dump(self, obj: Halfvecs) -> bytes:
        # Dimensions of the array, whether it has nulls, type, elements, and the number of the first; then each with
        # its size.
        parts = [struct.pack(">iiIii", 1, 0, obj.oid, len(obj.vectors), 1)]
        for vector in obj.vectors:
            parts += (len(vector.data).to_bytes(4), vector.data)
        return b"".join(parts)


adapters.register_dumper(Halfvec, _One)
adapters.register_dumper(Halfvecs, _Many)
