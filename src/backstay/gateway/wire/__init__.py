"""Wire formats: one a package, all of them found by name."""

from collections.abc import Mapping

from .anthropic import Anthropic
from .base import Body, CountWire, EmbedWire, Quirks, Reader, Wire, Writer
from .gemini import Gemini
from .openai import OpenAIChat, OpenAIEmbed
from .responses import OpenAIResponses

CHAT, RESPONSES, ANTHROPIC, GEMINI = OpenAIChat(), OpenAIResponses(), Anthropic(), Gemini()
EMBED = OpenAIEmbed()
_ALL: tuple[Wire, ...] = (CHAT, RESPONSES, ANTHROPIC, GEMINI)
WIRES: Mapping[str, Wire] = {wire.name: wire for wire in _ALL}
EMBED_WIRES: Mapping[str, EmbedWire] = {wire.name: wire for wire in (EMBED, GEMINI)}
COUNT_WIRES: Mapping[str, CountWire] = {wire.name: wire for wire in (ANTHROPIC, GEMINI)}

__all__ = [
    "ANTHROPIC",
    "CHAT",
    "COUNT_WIRES",
    "EMBED",
    "EMBED_WIRES",
    "GEMINI",
    "RESPONSES",
    "WIRES",
    "Body",
    "CountWire",
    "EmbedWire",
    "Quirks",
    "Reader",
    "Wire",
    "Writer",
]
