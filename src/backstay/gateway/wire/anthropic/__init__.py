"""The Anthropic Messages wire format: a surface for clients (`/v1/messages`, `/v1/messages/count_tokens`), and a format
of providers.

Only what the gateway must know is read of a request that is relayed; everything else passes through as it came.
"""

from .wire import WIRE, Anthropic

__all__ = ["WIRE", "Anthropic"]
