"""Providers: a small table each, over a wire format they share."""

from .base import Provider, Target
from .registry import Providers

__all__ = ["Provider", "Providers", "Target"]
