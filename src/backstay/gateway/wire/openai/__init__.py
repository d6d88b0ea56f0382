"""OpenAI's chat completions and embeddings: what most providers speak."""

from .chat import OpenAIChat
from .embed import OpenAIEmbed

__all__ = ["OpenAIChat", "OpenAIEmbed"]
