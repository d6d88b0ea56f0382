"""Lengths of chunks, kept in memory: a segment never changes, and every search needs those of all its segments."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from uuid import UUID

_MOST = 64 << 20  # bytes; two for each chunk, so those of 32 million chunks


class Lengths:
    """The segments that were used last, of all tenants; ids of segments are never used twice."""

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._size = most, 0
        self._kept: OrderedDict[tuple[UUID, int], bytes] = OrderedDict()

    def of(self, tenant: UUID, segments: Iterable[int]) -> dict[int, bytes]:
        """What is known of these."""
        known = {}
        for segment in segments:
            if (tenant, segment) in self._kept:
                self._kept.move_to_end((tenant, segment))
                known[segment] = self._kept[tenant, segment]
        return known

    def keep(self, tenant: UUID, lengths: Mapping[int, bytes]) -> None:
        for segment, value in lengths.items():
            self._size += len(value) - len(self._kept.pop((tenant, segment), b""))
            self._kept[tenant, segment] = value
        while self._size > self._most:
            _, value = self._kept.popitem(last=False)
            self._size -= len(value)
