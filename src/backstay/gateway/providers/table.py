"""The providers we know, a row each. What they share is in `account.py`, what they speak in `wire/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .base import Quirks

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
    """`url`: the base, None where every account has its own. `key`, `base`: names of the settings with the usual
    variables. `prices`: how genai-prices calls it. `suffix`: what is put behind a base URL that an account names."""

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

KINDS: Mapping[str, ProviderKind] = {
    kind.name: kind
    for kind in (
        ProviderKind(
            "openai",
            "https://api.openai.com/v1",
            (CHAT, RESPONSES),
            embeds=EMBED,
            key="openai_api_key",
            base="openai_base_url",
            quirks=_OPENAI,
        ),
        ProviderKind(
            "anthropic",
            "https://api.anthropic.com",
            (ANTHROPIC,),
            "x-api-key",
            key="anthropic_api_key",
            base="anthropic_base_url",
            headers={"anthropic-version": "2023-06-01"},
        ),
        ProviderKind(
            "gemini",
            "https://generativelanguage.googleapis.com",
            (GEMINI,),
            "x-goog-api-key",
            embeds=GEMINI,
            key="gemini_api_key",
            base="gemini_base_url",
            prices="google",
        ),
        ProviderKind(
            "azure",
            None,
            (CHAT, RESPONSES),
            "api-key",
            embeds=EMBED,
            key="azure_openai_api_key",
            base="azure_openai_endpoint",
            suffix="/openai/v1",
            quirks=_OPENAI,
        ),
        ProviderKind(
            "mistral", "https://api.mistral.ai/v1", (CHAT,), embeds=EMBED, key="mistral_api_key", quirks=_MISTRAL
        ),
        ProviderKind("groq", "https://api.groq.com/openai/v1", (CHAT,), key="groq_api_key"),
        ProviderKind("together", "https://api.together.xyz/v1", (CHAT,), embeds=EMBED, key="together_api_key"),
        ProviderKind("openrouter", "https://openrouter.ai/api/v1", (CHAT,), key="openrouter_api_key"),
        ProviderKind("deepseek", "https://api.deepseek.com", (CHAT,), key="deepseek_api_key"),
        ProviderKind("xai", "https://api.x.ai/v1", (CHAT,), key="xai_api_key", prices="x-ai"),
        ProviderKind("vllm", None, (CHAT,), embeds=EMBED, key="vllm_api_key", base="vllm_base_url"),
        ProviderKind("ollama", None, (CHAT,), embeds=EMBED, base="ollama_host", suffix="/v1"),
    )
}
