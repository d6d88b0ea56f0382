"""Words that requests, answers and streams of chat completions share."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...dialogue import Media, Stop, Thinking
from ...models import Usage
from .. import fields

STOPS: Mapping[Any, Stop] = {
    "stop": Stop.END,
    "length": Stop.LENGTH,
    "tool_calls": Stop.TOOL,
    "function_call": Stop.TOOL,
    "content_filter": Stop.REFUSAL,
}
FINISH: Mapping[Stop, str] = {
    Stop.END: "stop",
    Stop.SEQUENCE: "stop",
    Stop.LENGTH: "length",
    Stop.TOOL: "tool_calls",
    Stop.REFUSAL: "content_filter",
}
_FORMATS = {"anthropic-claude-v1": "anthropic", "google-gemini-v1": "gemini", "openai-responses-v1": "openai-responses"}
_ORIGINS = {origin: form for form, origin in _FORMATS.items()}


def tool_id(id: str, signature: str | None) -> str:
    """The id a client sees. Gemini wants its signature of a call back; only the id is sure to come back."""
    from ..gemini.ids import pack_id

    return pack_id(id, signature) if signature else id


def images_of(message: Mapping[str, Any]) -> Iterator[Media]:
    """Pictures of an assistant's message or of a piece of one, as OpenRouter and LiteLLM put them there."""
    given = message.get("images")
    for image in given if isinstance(given, list) else ():
        place = image.get("image_url") if isinstance(image, dict) else None
        url = place.get("url") if isinstance(place, dict) else None
        if isinstance(url, str) and url:
            yield media_at(url, "image")


def image(media: Media, index: int) -> dict[str, Any] | None:
    """A picture as it stands in an answer; None for what is none."""
    if media.kind != "image" or not (media.data or media.url):
        return None
    url = media.url if media.data is None else f"data:{media.type or 'image/png'};base64,{media.data}"
    return {"type": "image_url", "index": index, "image_url": {"url": url}}


def media_at(url: str, kind: Any, name: str | None = None, detail: str | None = None, cache: Any = None) -> Media:
    """`url` may be a data URL."""
    if not url.startswith("data:"):
        return Media(kind, url=url, name=name, detail=detail, cache=cache)
    head, _, data = url[5:].partition(",")
    return Media(kind, head.split(";")[0] or None, data=data, name=name, detail=detail, cache=cache)


def reasoning_of(message: Mapping[str, Any]) -> Iterator[Thinking]:
    """Thoughts of an assistant's message: the details where they are given, else the plain text."""
    details = message.get("reasoning_details")
    found = list(_read_details(details)) if isinstance(details, list) else []
    if found:
        yield from found
        return
    text = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(text, str) and text:
        yield Thinking(text)


def details_of(thoughts: Iterable[Thinking]) -> list[dict[str, Any]]:
    """Thoughts as `reasoning_details`: only those that must come back unmodified need them."""
    return [detail for thought in thoughts if (detail := detail_of(thought)) is not None]


def detail_of(thought: Thinking) -> dict[str, Any] | None:
    if not thought.signature:
        return None
    form = {"id": thought.id, "format": _ORIGINS.get(thought.origin or "", thought.origin)}
    if thought.redacted:
        return {"type": "reasoning.encrypted", "data": thought.signature, **form}
    return {"type": "reasoning.text", "text": thought.text, "signature": thought.signature, **form}


def _read_details(details: Iterable[Any]) -> Iterator[Thinking]:
    for detail in details:
        if not isinstance(detail, dict):
            continue
        form = detail.get("format")
        origin = _FORMATS.get(form, form) if isinstance(form, str) else None
        id = detail.get("id") if isinstance(detail.get("id"), str) else None
        text, data, signature = detail.get("text") or detail.get("summary"), detail.get("data"), detail.get("signature")
        if detail.get("type") == "reasoning.encrypted" and isinstance(data, str):
            yield Thinking("", data, True, origin, id)
        elif isinstance(text, str):
            yield Thinking(text, signature if isinstance(signature, str) else None, False, origin, id)


def usage_of(answer: Mapping[str, Any]) -> Usage | None:
    """What the provider says was used; None when it says nothing that can be counted."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    read, written = fields.tokens(usage, "prompt_tokens"), fields.tokens(usage, "completion_tokens")
    if read == 0 and written == 0 and not fields.tokens(usage, "total_tokens"):
        return Usage() if "prompt_tokens" in usage else None
    # Cached tokens are counted inside prompt tokens here, reasoning inside completion tokens.
    inside, outside = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = fields.tokens(inside, "cached_tokens") or fields.tokens(usage, "prompt_cache_hit_tokens")
    return Usage(
        read,
        written,
        min(cached, read),
        min(fields.tokens(outside, "reasoning_tokens"), written),
        input_audio_tokens=min(fields.tokens(inside, "audio_tokens"), read),
        output_audio_tokens=min(fields.tokens(outside, "audio_tokens"), written),
        web_searches=_searches(usage),
    )


def _searches(usage: Mapping[str, Any]) -> int:
    """Searches in the web, where they are told: OpenRouter does it as Anthropic, Perplexity has its own word."""
    return fields.tokens(usage.get("server_tool_use"), "web_search_requests") or fields.tokens(
        usage, "num_search_queries"
    )


def usage_as_openai(usage: Usage) -> Mapping[str, Any]:
    """Usage as chat completions tell it: cached tokens inside prompt tokens, reasoning inside completion tokens."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": usage.input_audio_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }
