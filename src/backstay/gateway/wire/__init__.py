"""Wire formats: one a module, all of them found by name."""

from collections.abc import Mapping

from .anthropic import Anthropic
from .base import Body, CountWire, EmbedWire, Reader, Wire, Writer
from .openai_chat import OpenAIChat
from .openai_embed import OpenAIEmbed
from .openai_responses import OpenAIResponses

CHAT = OpenAIChat()
EMBED = OpenAIEmbed()
_ANTHROPIC = Anthropic()
WIRES: Mapping[str, Wire] = {wire.name: wire for wire in (CHAT, OpenAIResponses(), _ANTHROPIC)}
COUNT_WIRES: Mapping[str, CountWire] = {wire.name: wire for wire in (_ANTHROPIC,)}
EMBED_WIRES: Mapping[str, EmbedWire] = {wire.name: wire for wire in (EMBED,)}

__all__ = [
    "CHAT",
    "COUNT_WIRES",
    "EMBED",
    "EMBED_WIRES",
    "WIRES",
    "Body",
    "CountWire",
    "EmbedWire",
    "Reader",
    "Wire",
    "Writer",
]
