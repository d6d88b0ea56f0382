"""Providers: a row of the table each, over the wire formats they share."""

from ..wire import Quirks
from .base import Outgoing, Provider, Target
from .registry import Providers

__all__ = ["Outgoing", "Provider", "Providers", "Quirks", "Target"]
