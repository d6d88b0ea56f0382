"""Backends for the acceptance tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend import Backend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Callable[..., Backend]]:
    """Makes backends on this test's data directory, and ends them."""
    made: list[Backend] = []

    def make(**environment: str) -> Backend:
        made.append(Backend(tmp_path / "data", **environment))
        return made[-1]

    yield make
    for one in made:
        one.end()
