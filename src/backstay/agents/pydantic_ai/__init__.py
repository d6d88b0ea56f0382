"""Agents of pydantic-ai inside runs: their model requests and tool calls are steps. Needs the extra `pydantic-ai`."""

from ...kernel.errors import ConfigurationError

try:
    import pydantic_ai as _installed  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "pydantic_ai":
        raise
    raise ConfigurationError("pydantic-ai is not installed: `pip install 'backstay[pydantic-ai]'`") from None

from .durable import Durable
from .toolset import tool_context

__all__ = ["Durable", "tool_context"]
