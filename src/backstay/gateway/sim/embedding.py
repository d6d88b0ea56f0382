"""A hashing embedder for tests: texts that share words get near vectors. It knows no meanings, and nothing learns."""

import math
import re
from functools import lru_cache
from hashlib import blake2b

_WORDS = re.compile(r"\w+")


def embed(text: str, dimensions: int) -> list[float]:
    """A vector of length 1; the same text gives the same vector on every machine and in every process."""
    counts: dict[str, int] = {}
    for word in _WORDS.findall(text.lower()):
        counts[word] = counts.get(word, 0) + 1
        if len(word) > 4:
            # A shared beginning brings inflected forms of a word near each other.
            stem = word[:4] + "*"
            counts[stem] = counts.get(stem, 0) + 1
    vector = [0.0] * dimensions
    for feature, count in counts.items():
        place, sign = _slot(feature)
        vector[place % dimensions] += sign * math.sqrt(count)
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0:
        # Nothing to hash, or everything cancelled: a fixed direction instead of a vector without one.
        vector[0] = length = 1.0
    return [value / length for value in vector]


@lru_cache(maxsize=65_536)
def _slot(feature: str) -> tuple[int, float]:
    number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "big")
    return number >> 1, 1.0 if number & 1 else -1.0
