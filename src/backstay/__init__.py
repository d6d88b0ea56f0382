"""Backstay: the backend AI agents stand on.

Their row, the agent's next step, its cost, its audit record and its webhook commit together, or not at all.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import App
    from .workflows import Run

__version__ = _version("backstay")
__all__ = ["App", "Run", "__version__"]


def __getattr__(name: str) -> object:
    """Import the big rooms only when asked for, so that `backstay --help` stays quick."""
    if name == "App":
        from .app import App

        return App
    if name == "Run":
        from .workflows import Run

        return Run
    raise AttributeError(f"module 'backstay' has no attribute {name!r}")
