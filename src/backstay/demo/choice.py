"""Which model answers: the simulator, OpenAI or whatever speaks its format, or a local Ollama."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ..kernel.errors import ConfigurationError

OLLAMA = "http://127.0.0.1:11434"
SIMULATED = "sim:extract?itl=45ms"
EMBEDDER = "sim:dev-hash"
_OPENAI = "gpt-4.1-mini"
_OPENAI_EMBEDDER = "openai:text-embedding-3-small"
_LOOK = aiohttp.ClientTimeout(total=2)
_NOT_CHAT = ("embed", "whisper", "tts", "moderation", "dall-e", "image", "rerank")


@dataclass(frozen=True, slots=True)
class Choice:
    """The models of this demo, why these, and what the processes need to reach them."""

    model: str
    embedder: str
    note: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        return self.model.startswith("sim:")


async def choose(asked: str | None, environment: Mapping[str, str] = os.environ) -> Choice:
    """The model named by the user, else OpenAI by its usual variables, else Ollama when it answers, else the
    simulator.

    Raises:
        ConfigurationError: the server at OPENAI_BASE_URL offers no chat model.
    """
    key, base = environment.get("OPENAI_API_KEY"), environment.get("OPENAI_BASE_URL")
    if asked is not None:
        note = "the built-in simulator, not a language model" if asked.startswith("sim:") else "as asked for"
        return Choice(asked, EMBEDDER, note, {"BACKSTAY_UNKNOWN_PRICE": "0"})
    if base:
        models = await _models(f"{base.rstrip('/')}/models", key)
        if not models:
            raise ConfigurationError(
                f"no chat model is offered at OPENAI_BASE_URL ({base}); name one with --model openai:<model>, "
                "or unset it"
            )
        return Choice(f"openai:{models[0]}", EMBEDDER, f"found at {base}", {"BACKSTAY_UNKNOWN_PRICE": "0"})
    if key:
        return Choice(f"openai:{_OPENAI}", _OPENAI_EMBEDDER, "OPENAI_API_KEY is set")
    models = await _models(f"{OLLAMA}/v1/models", None)
    if models:
        reach = {"OPENAI_BASE_URL": f"{OLLAMA}/v1", "OPENAI_API_KEY": "ollama", "BACKSTAY_UNKNOWN_PRICE": "0"}
        return Choice(f"openai:{models[0]}", EMBEDDER, "a local Ollama answers", reach)
    return Choice(SIMULATED, EMBEDDER, "the built-in simulator, not a language model: no provider key is set")


async def _models(url: str, key: str | None) -> list[str]:
    """Names of the chat models offered; none when nobody answers."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with aiohttp.ClientSession(timeout=_LOOK, headers=headers) as session, session.get(url) as answer:
            body: dict[str, Any] = await answer.json(content_type=None) if answer.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return []
    data = body.get("data") if isinstance(body, dict) else None
    names = [str(item["id"]) for item in data or [] if isinstance(item, dict) and item.get("id")]
    return [name for name in names if not any(word in name.lower() for word in _NOT_CHAT)]
