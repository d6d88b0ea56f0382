"""Wire formats: one a module, all of them found by name."""

from collections.abc import Mapping

from .anthropic import Anthropic
from .base import Body, EmbedWire, Reader, Wire, Writer
from .openai_chat import OpenAIChat
from .openai_embed import OpenAIEmbed
from .openai_responses import OpenAIResponses

CHAT = OpenAIChat()
EMBED = OpenAIEmbed()
WIRES: Mapping[str, Wire] = {wire.name: wire for wire in (CHAT, OpenAIResponses(), Anthropic())}
EMBED_WIRES: Mapping[str, EmbedWire] = {wire.name: wire for wire in (EMBED,)}

__all__ = ["CHAT", "EMBED", "EMBED_WIRES", "WIRES", "Body", "EmbedWire", "Reader", "Wire", "Writer"]
