"""OpenAI's Responses API."""

from .wire import OpenAIResponses

__all__ = ["OpenAIResponses"]
