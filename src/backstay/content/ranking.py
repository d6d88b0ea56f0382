"""Joins ranked lists into one."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)
CONSTANT = 60  # of reciprocal rank fusion: how little the very first ranks are preferred


def fuse(legs: Mapping[str, Sequence[T]]) -> list[tuple[T, float]]:
    """Reciprocal rank fusion: each item scores the sum of 1 / (60 + rank) over the legs that found it (rank 1 is best).

    Best first; items with equal scores stand in the order of the legs.
    """
    scores: dict[T, float] = {}
    for found in legs.values():
        for rank, item in enumerate(found, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (CONSTANT + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])
