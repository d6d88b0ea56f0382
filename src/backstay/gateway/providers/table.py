"""The providers we know, a row each. What they share is in `account.py`, what they speak in `wire/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from ...kernel.errors import ConfigurationError
from ..wire import Quirks

GROUP = "backstay.providers"

CHAT, RESPONSES, EMBED, ANTHROPIC, GEMINI = "openai-chat", "openai-responses", "openai-embed", "anthropic", "gemini"

# Below the base URL; Gemini's paths name the model and are made in its own module.
PATHS: Mapping[tuple[str, str], str] = {
    (CHAT, "chat"): "/chat/completions",
    (RESPONSES, "chat"): "/responses",
    (EMBED, "embed"): "/embeddings",
    (ANTHROPIC, "chat"): "/v1/messages",
    (ANTHROPIC, "count"): "/v1/messages/count_tokens",
}


_PLAIN = Quirks()


@dataclass(frozen=True, slots=True)
class ProviderKind:
    """`url`: the base, None where every account has its own. `key`, `base`: the usual environment variables. `prices`:
    how genai-prices calls it. `suffix`: what is put behind a base URL that an account names.

    A package may bring kinds of its own: entry points of the group `backstay.providers` that lead to a ProviderKind.
    """

    name: str
    url: str | None
    wires: tuple[str, ...]
    auth: Literal["bearer", "x-api-key", "x-goog-api-key", "api-key"] = "bearer"
    embeds: str | None = None
    key: str | None = None
    base: str | None = None
    prices: str | None = None
    suffix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    quirks: Quirks = _PLAIN


_OPENAI = Quirks(max_tokens_field="max_completion_tokens", developer_role=True)
_MISTRAL = Quirks(
    drops=frozenset({"stream_options", "user", "logit_bias", "logprobs", "top_logprobs", "metadata", "store"}),
    renames={"seed": "random_seed"},
)

KINDS: dict[str, ProviderKind] = {
    kind.name: kind
    for kind in (
        ProviderKind(
            "openai",
            "https://api.openai.com/v1",
            (CHAT, RESPONSES),
            embeds=EMBED,
            key="OPENAI_API_KEY",
            base="OPENAI_BASE_URL",
            quirks=_OPENAI,
        ),
        ProviderKind(
            "anthropic",
            "https://api.anthropic.com",
            (ANTHROPIC,),
            "x-api-key",
            key="ANTHROPIC_API_KEY",
            base="ANTHROPIC_BASE_URL",
            headers={"anthropic-version": "2023-06-01"},
        ),
        ProviderKind(
            "gemini",
            "https://generativelanguage.googleapis.com",
            (GEMINI,),
            "x-goog-api-key",
            embeds=GEMINI,
            key="GEMINI_API_KEY",
            base="GOOGLE_GEMINI_BASE_URL",
            prices="google",
        ),
        ProviderKind(
            "azure",
            None,
            (CHAT, RESPONSES),
            "api-key",
            embeds=EMBED,
            key="AZURE_OPENAI_API_KEY",
            base="AZURE_OPENAI_ENDPOINT",
            suffix="/openai/v1",
            quirks=_OPENAI,
        ),
        ProviderKind(
            "mistral", "https://api.mistral.ai/v1", (CHAT,), embeds=EMBED, key="MISTRAL_API_KEY", quirks=_MISTRAL
        ),
        ProviderKind("groq", "https://api.groq.com/openai/v1", (CHAT,), key="GROQ_API_KEY"),
        ProviderKind("together", "https://api.together.xyz/v1", (CHAT,), embeds=EMBED, key="TOGETHER_API_KEY"),
        ProviderKind("openrouter", "https://openrouter.ai/api/v1", (CHAT,), key="OPENROUTER_API_KEY"),
        ProviderKind("deepseek", "https://api.deepseek.com", (CHAT,), key="DEEPSEEK_API_KEY"),
        ProviderKind("xai", "https://api.x.ai/v1", (CHAT,), key="XAI_API_KEY", prices="x-ai"),
        ProviderKind("vllm", None, (CHAT,), embeds=EMBED, key="VLLM_API_KEY", base="VLLM_BASE_URL"),
        ProviderKind("ollama", None, (CHAT,), embeds=EMBED, base="OLLAMA_HOST", suffix="/v1"),
    )
}


@cache
def kinds() -> Mapping[str, ProviderKind]:
    """Our own kinds and those that installed packages bring along; ours win.

    Raises:
        ConfigurationError: an entry point leads to something else.
    """
    found: dict[str, ProviderKind] = {}
    for entry in entry_points(group=GROUP):
        kind = entry.load()
        if not isinstance(kind, ProviderKind):
            raise ConfigurationError(
                f"the entry point {entry.name} of {GROUP} is a {type(kind).__name__}, no ProviderKind"
            )
        found[kind.name] = kind
    return found | KINDS
