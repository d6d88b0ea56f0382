"""Providers: a row of the table each, over the wire formats they share."""

from .base import Kind, Outgoing, Provider, Quirks, Target
from .registry import Providers

__all__ = ["Kind", "Outgoing", "Provider", "Providers", "Quirks", "Target"]
