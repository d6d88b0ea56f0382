"""Where each wire format is served, and what its clients send along."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..kernel.errors import NotFound
from .dialogue import Kind

# Headers of a format that its provider understands, for requests that reach one.
FORWARDED: Mapping[str, tuple[str, ...]] = {"anthropic": ("anthropic-beta", "anthropic-version")}
_GEMINI = "/v1beta/models/"
# method → (kind, streamed)
_METHODS: Mapping[str, tuple[Kind, bool]] = {
    "generateContent": ("chat", False),
    "streamGenerateContent": ("chat", True),
    "embedContent": ("embed", False),
    "batchEmbedContents": ("embed", False),
    "countTokens": ("count", False),
}


@dataclass(frozen=True, slots=True)
class Surface:
    """What a path asks for. Gemini's paths name the model and say whether the answer is streamed."""

    wire: str
    kind: Kind
    model: str | None = None
    stream: bool | None = None
    method: str | None = None


_POSTS: Mapping[str, Surface] = {
    "/v1/chat/completions": Surface("openai-chat", "chat"),
    "/v1/responses": Surface("openai-responses", "chat"),
    "/v1/embeddings": Surface("openai-embed", "embed"),
    "/v1/messages": Surface("anthropic", "chat"),
    "/v1/messages/count_tokens": Surface("anthropic", "count"),
}


def family(path: str, headers: Mapping[str, str]) -> str:
    """The format in which a client of this path reads errors and lists."""
    if path.startswith("/v1beta/"):
        return "gemini"
    if path.startswith("/v1/messages") or "anthropic-version" in headers:
        return "anthropic"
    return "openai-responses" if path.startswith("/v1/responses") else "openai-chat"


def surface_of(path: str) -> Surface:
    """Raises NotFound: nothing takes requests there."""
    if found := _POSTS.get(path):
        return found
    name, colon, method = path.removeprefix(_GEMINI).rpartition(":")
    if path.startswith(_GEMINI) and colon and name and method in _METHODS:
        kind, stream = _METHODS[method]
        return Surface("gemini", kind, name, stream, method)
    raise NotFound(f"nothing is served at {path}")
