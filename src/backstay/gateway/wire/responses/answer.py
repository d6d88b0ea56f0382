"""Answers of the Responses API: the `response` object and the items of its `output`, read and written."""

from collections.abc import Iterator, Mapping
from hashlib import blake2s
from time import time
from typing import Any

from ....kernel.ids import new_id
from ...dialogue import Media, Part, Refusal, Request, Said, Stop, Text, Thinking, ToolCall
from ...errors import ProviderFailed
from ...models import Usage
from ..base import Body
from ..openai import errors
from . import seal as seals
from .told import told

_MOST_TOKENS = 2**40
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}


def understood(body: Body) -> Said:
    """A provider's whole answer. See Wire.read_answer."""
    output = body.get("output")
    if not isinstance(output, list):
        raise ProviderFailed("the provider's answer has no output that can be read")
    parts = tuple(part for item in output for part in parts_of(item))
    return Said(
        id=text_of(body, "id"),
        model=text_of(body, "model"),
        parts=parts,
        stop=stop_of(body, called=any(isinstance(part, ToolCall) for part in parts)),
        usage=usage_of(body),
        created=created_of(body),
    )


def parts_of(item: Any) -> Iterator[Part]:
    """What an item says; nothing for an item that only OpenAI's own tools understand."""
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "message":
        for _, part in contents(item):
            yield part
    elif kind == "reasoning":
        # What is encrypted here belongs to the provider, even if the provider is a Backstay that sealed it.
        text, encrypted = _thoughts(item), text_of(item, "encrypted_content") or None
        if text or encrypted:
            yield Thinking(text, encrypted, origin=seals.ORIGIN, id=text_of(item, "id") or None)
    elif kind == "image_generation_call":
        if data := text_of(item, "result"):
            yield Media("image", f"image/{text_of(item, 'output_format') or 'png'}", data=data)
    elif isinstance(kind, str) and kind in CALLS:
        yield ToolCall(text_of(item, "call_id"), text_of(item, "name"), text_of(item, CALLS[kind]))


def contents(item: Body) -> Iterator[tuple[int, Text | Refusal]]:
    """The parts of a message that are not empty, each with its place."""
    content = item.get("content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict):
            if text := text_of(part, "text"):
                yield index, Text(text)
            elif refusal := text_of(part, "refusal"):
                yield index, Refusal(refusal)


def stop_of(response: Body, called: bool, status: str | None = None) -> Stop | None:
    """Why the answer ended; None when it has not. `called`: it has tool calls. `status`: what an event says of it."""
    status = status or response.get("status")
    if status in ("queued", "in_progress"):
        return None
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return Stop.REFUSAL if reason == "content_filter" else Stop.LENGTH
    return Stop.TOOL if called else Stop.END


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """What the provider says was used. Cached and written tokens are counted inside input, reasoning inside output."""
    usage = body.get("usage")
    if not isinstance(usage, dict) or not usage.keys() & {"input_tokens", "output_tokens"}:
        return None
    read, said = _tokens(usage, "input_tokens"), _tokens(usage, "output_tokens")
    details = usage.get("input_tokens_details")
    cached = min(_tokens(details, "cached_tokens"), read)
    written = min(_tokens(details, "cache_write_tokens"), read - cached)
    reasoning = min(_tokens(usage.get("output_tokens_details"), "reasoning_tokens"), said)
    return Usage(read, said, cached, reasoning, written, web_searches=_searches(body.get("output")))


def _searches(output: Any) -> int:
    """Searches in the web, which are billed; opening a page that was found, or looking for something in it, is not."""
    return sum(1 for item in output if is_search(item)) if isinstance(output, list) else 0


def is_search(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type") != "web_search_call" or item.get("status") == "failed":
        return False
    action = item.get("action")
    return not isinstance(action, dict) or action.get("type", "search") == "search"


def error_of(body: Any) -> str | None:
    """The message of an error in an answer or in an event."""
    if not isinstance(body, dict):
        return None
    if body.get("error"):
        return errors.heard(body["error"])
    if body.get("type") == "error":
        return errors.heard(body)
    if body.get("status") in ("failed", "cancelled"):
        return f"the answer is {body['status']}, and nothing is said about why"
    return None


def status_of(body: Any) -> int | None:
    """The status that such an error stands for; the error of a failed response stands inside of it."""
    if not isinstance(body, dict):
        return None
    inner = body.get("response")
    holder = inner if isinstance(inner, dict) else body
    error = holder.get("error")
    return errors.meant(error if isinstance(error, dict) else holder)


def created_of(response: Body) -> int:
    created = response.get("created_at")
    return int(created) if isinstance(created, int | float) and 0 <= created < _MOST_TOKENS else 0


def text_of(value: Body, key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


class Head:
    """What all snapshots of one response have in common, and the ids of its items."""

    def __init__(self, id: str, model: str, created: int, request: Request) -> None:
        self.id = id if id.startswith("resp_") else f"resp_{id or new_id().hex}"
        self._model, self._created, self._request = model or request.model, created or int(time()), request
        # Ids of items are short and plain at OpenAI, which reads them again; those of providers may be neither.
        self._stem = blake2s(self.id.encode(), digest_size=16).hexdigest()

    def item(self, kind: str, index: int) -> str:
        return f"{kind}_{self._stem}{index:04x}"

    def response(self, output: list[Body], stop: Stop | None = None, usage: Usage | None = None) -> Body:
        """The whole response as it stands after `stop`."""
        cut = {Stop.LENGTH: "max_output_tokens", Stop.REFUSAL: "content_filter"}.get(stop) if stop else None
        return self._snapshot("incomplete" if cut else "completed", output) | {
            "completed_at": None if cut else int(time()),
            "incomplete_details": {"reason": cut} if cut else None,
            "usage": None if usage is None else written_usage(usage),
        }

    def begun(self) -> Body:
        """The response before there is anything in it."""
        return self._snapshot("in_progress", [])

    def _snapshot(self, status: str, output: list[Body]) -> Body:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "max_output_tokens": self._request.max_tokens,
            "model": self._model,
            "output": output,
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "truncation": "disabled",
            "usage": None,
            "user": self._request.user,
            "metadata": dict(self._request.metadata),
            **told(self._request.told),
        }


def written_usage(usage: Usage) -> Body:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.written_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _thoughts(item: Body) -> str:
    for key, between in (("summary", "\n\n"), ("content", "")):
        value = item.get(key)
        found = [text_of(part, "text") for part in value if isinstance(part, dict)] if isinstance(value, list) else []
        if text := between.join(found):
            return text
    return ""


def _tokens(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS else 0
