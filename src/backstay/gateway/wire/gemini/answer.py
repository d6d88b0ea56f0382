"""A Gemini answer: its parts, why it ended, and what was used. Read from a provider with patience for what is unknown,
written for a client as Google writes it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ....kernel.ids import new_id
from ...dialogue import Media, Part, Refusal, Said, Stop, Text, Thinking, ToolCall
from ...errors import ProviderFailed
from ...models import Usage
from ..base import Body
from .ids import ORIGIN, make_id, seal, unseal
from .read import kind_of

# The model wrote something that neither it nor we can use: a failure, never an empty success.
_FAILURES = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "NO_IMAGE",
        "IMAGE_OTHER",
    }
)
_STOPS = {
    "STOP": Stop.END,
    "MAX_TOKENS": Stop.LENGTH,
    "CONTINUATION": Stop.LENGTH,
    "SAFETY": Stop.REFUSAL,
    "RECITATION": Stop.REFUSAL,
    "LANGUAGE": Stop.REFUSAL,
    "BLOCKLIST": Stop.REFUSAL,
    "PROHIBITED_CONTENT": Stop.REFUSAL,
    "SPII": Stop.REFUSAL,
    "IMAGE_SAFETY": Stop.REFUSAL,
    "IMAGE_PROHIBITED_CONTENT": Stop.REFUSAL,
    "IMAGE_RECITATION": Stop.REFUSAL,
    "MODEL_ARMOR": Stop.REFUSAL,
    "ESCALATION": Stop.REFUSAL,
    "PUP_LIMITED_DISABLED": Stop.REFUSAL,
    # The provider stopped it and does not say why; what there is cannot be called whole.
    "OTHER": Stop.REFUSAL,
}
_REASONS = {
    Stop.END: "STOP",
    Stop.SEQUENCE: "STOP",
    Stop.TOOL: "STOP",
    Stop.LENGTH: "MAX_TOKENS",
    Stop.REFUSAL: "SAFETY",
}
_BY_PROMPT = ("gemini-1", "gemini-2")
_UNKNOWN_TYPE = "application/octet-stream"
MALFORMED_CALL = "MALFORMED_FUNCTION_CALL"


def stop_of(reason: Any, called: bool, message: Any = None) -> Stop | None:
    """Why a candidate ended; None when it has not. A clean stop after function calls waits for their results.

    Raises:
        ProviderFailed: the model ended in a way that leaves nothing to use.
    """
    if not isinstance(reason, str) or reason == "FINISH_REASON_UNSPECIFIED":
        return None
    if reason in _FAILURES:
        told = f": {message[:300]}" if isinstance(message, str) and message else ""
        raise ProviderFailed(f"the model gave up on its answer ({reason}){told}")
    stop = _STOPS.get(reason, Stop.END)
    return Stop.TOOL if stop is Stop.END and called else stop


def reason_of(stop: Stop | None) -> str:
    return _REASONS[stop] if stop is not None else "OTHER"


def blocked(body: Mapping[str, Any]) -> bool:
    """The prompt was refused, and so there are no candidates."""
    feedback = body.get("promptFeedback")
    return isinstance(feedback, dict) and bool(feedback.get("blockReason")) and not body.get("candidates")


def refusal_of(body: Mapping[str, Any], name: str) -> str | None:
    """What the provider says of a refusal, in its own words."""
    text = body.get(name)
    return text if isinstance(text, str) and text else None


def queries_of(body: Mapping[str, Any]) -> set[str]:
    """What Google searched the web for; empty queries, which stand there at times, are not billed."""
    found: set[str] = set()
    candidates = body.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        grounding = candidate.get("groundingMetadata") if isinstance(candidate, dict) else None
        queries = grounding.get("webSearchQueries") if isinstance(grounding, dict) else None
        found.update(query for query in (queries if isinstance(queries, list) else ()) if query and type(query) is str)
    return found


def searches_of(queries: set[str], model: Any) -> int:
    """How many of them are billed."""
    return min(1, len(queries)) if searches_once(model) else len(queries)


def searches_once(model: Any) -> bool:
    """All searches for a prompt are billed as one: so it is before Gemini 3, from which on each counts."""
    return isinstance(model, str) and model.startswith(_BY_PROMPT)


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """Google counts cached tokens inside the prompt, thoughts outside the candidates, and apart from both the prompt
    that its own tools made."""
    meta = body.get("usageMetadata")
    if not isinstance(meta, dict):
        return None
    prompt, tools = _tokens(meta, "promptTokenCount"), _tokens(meta, "toolUsePromptTokenCount")
    said, thoughts = _tokens(meta, "candidatesTokenCount"), _tokens(meta, "thoughtsTokenCount")
    if not said and "candidatesTokenCount" not in meta:
        # Where the part is not told, the whole may be.
        said = max(0, _tokens(meta, "totalTokenCount") - prompt - tools - thoughts)
    if not (prompt or tools or said or thoughts) and "promptTokenCount" not in meta:
        return None
    heard = meta.get("promptTokensDetails")
    spoken = meta.get("candidatesTokensDetails")
    return Usage(
        input_tokens=prompt + tools,
        output_tokens=said + thoughts,
        cached_tokens=min(_tokens(meta, "cachedContentTokenCount"), prompt),
        reasoning_tokens=thoughts,
        input_audio_tokens=_of_kind("AUDIO", heard, prompt) if heard else 0,
        output_audio_tokens=_of_kind("AUDIO", spoken, said) if spoken else 0,
        output_image_tokens=_of_kind("IMAGE", spoken, said) if spoken else 0,
        web_searches=searches_of(queries_of(body), body.get("modelVersion")),
    )


def usage_metadata(usage: Usage) -> Body:
    meta: Body = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": max(0, usage.output_tokens - usage.reasoning_tokens),
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.cached_tokens:
        meta["cachedContentTokenCount"] = usage.cached_tokens
    if usage.reasoning_tokens:
        meta["thoughtsTokenCount"] = usage.reasoning_tokens
    if usage.input_audio_tokens:
        meta["promptTokensDetails"] = _details(usage.input_tokens, usage.input_audio_tokens)
    if usage.output_audio_tokens:
        meta["candidatesTokensDetails"] = _details(meta["candidatesTokenCount"], usage.output_audio_tokens)
    return meta


def read_answer(body: Mapping[str, Any]) -> Said:
    """The first candidate; other formats ask for one.

    Raises:
        ProviderFailed: there is none, or the model gave up on it.
    """
    id, model = _name(body, "responseId") or new_id().hex, _name(body, "modelVersion") or ""
    usage = usage_of(body)
    if blocked(body):
        said = refusal_of(body["promptFeedback"], "blockReasonMessage")
        return Said(id, model, (Refusal(said),) if said else (), Stop.REFUSAL, usage)
    candidates = body.get("candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(candidate, dict):
        raise ProviderFailed("the provider's answer has no candidate")
    content = candidate.get("content")
    given = content.get("parts") if isinstance(content, dict) else None
    parts = _parts(given if isinstance(given, list) else [], id)
    called = any(isinstance(part, ToolCall) for part in parts)
    stop = stop_of(candidate.get("finishReason"), called, candidate.get("finishMessage"))
    if stop is Stop.REFUSAL and (said := refusal_of(candidate, "finishMessage")):
        parts.append(Refusal(said))
    return Said(id, model, tuple(parts), stop, usage)


def write_answer(said: Said) -> Body:
    parts, malformed = written_parts(said.parts)
    reason = MALFORMED_CALL if malformed and said.stop is not Stop.LENGTH else reason_of(said.stop)
    answer: Body = {
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}],
        "modelVersion": said.model,
        "responseId": said.id,
    }
    if said.usage is not None:
        answer["usageMetadata"] = usage_metadata(said.usage)
    return answer


def written_parts(parts: Iterable[Part]) -> tuple[list[Body], bool]:
    """The parts as a client reads them, and whether a call was left out because its arguments are no JSON object: a
    client would run it without them."""
    written: list[Body] = []
    malformed = False
    for part in parts:
        match part:
            case Text(text=text) | Refusal(text=text) if text:
                written.append({"text": text})
            case Thinking():
                written += thought(part.text, part.signature, part.origin, part.redacted)
            case Media():
                written.append(media_part(part))
            case ToolCall():
                call = function_call(part.id, part.name, part.arguments, part.signature)
                malformed |= call is None
                written += [call] if call is not None else []
    return written, malformed


def media_part(media: Media) -> Body:
    if media.data is not None:
        return {"inlineData": {"mimeType": media.type or _UNKNOWN_TYPE, "data": media.data}}
    if media.url is not None:
        return {"fileData": {"fileUri": media.url, **({"mimeType": media.type} if media.type else {})}}
    return {"text": media.note}


def media_of(part: Mapping[str, Any]) -> Media | None:
    """The picture or sound in a part of an answer."""
    inline = part.get("inlineData")
    if not isinstance(inline, dict) or not isinstance(inline.get("data"), str):
        return None
    kind = _name(inline, "mimeType")
    return Media(kind_of(kind), kind, data=inline["data"])


def thought(text: str, signature: str | None, origin: str | None, redacted: bool = False) -> list[Body]:
    """A thought as a part, or nothing where there is nothing to show and nothing to bring back."""
    if signature is None or origin is None:
        return [{"text": text, "thought": True}] if text else []
    if origin != ORIGIN:
        return [{"text": text, "thought": True, "thoughtSignature": seal(signature, origin, redacted)}]
    return [{"text": text, "thought": True, "thoughtSignature": signature} if text else _signed(signature)]


def function_call(id: str, name: str, arguments: str, signature: str | None) -> Body | None:
    """A call as a part; None when its arguments are no JSON object."""
    try:
        args = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(args, dict):
        return None
    part: Body = {"functionCall": {"id": id, "name": name, "args": args}}
    if signature is not None:
        part["thoughtSignature"] = signature
    return part


def call_of(part: Mapping[str, Any], answer: str, choice: int, number: int) -> ToolCall | None:
    """The function call in a part of an answer; None where it has no name, as pieces of a streamed one have not.

    Raises:
        ProviderFailed: its arguments are nested too deeply for JSON.
    """
    call = part["functionCall"]
    name = _name(call, "name")
    if name is None:
        return None
    args = call.get("args")
    try:
        text = orjson.dumps(args).decode() if isinstance(args, dict) else "{}"
    except orjson.JSONEncodeError:
        raise ProviderFailed("the arguments of a function call are nested too deeply") from None
    return ToolCall(_name(call, "id") or make_id(answer, choice, number), name, text, _name(part, "thoughtSignature"))


def _parts(given: Iterable[Any], answer: str) -> list[Part]:
    parts: list[Part] = []
    calls = 0
    for part in given:
        if not isinstance(part, dict):
            continue
        text, signature = part.get("text"), _name(part, "thoughtSignature")
        if isinstance(part.get("functionCall"), dict):
            if (call := call_of(part, answer, 0, calls)) is not None:
                calls += 1
                parts.append(call)
        elif isinstance(text, str):
            opaque, origin, redacted = unseal(signature) if signature else (None, ORIGIN, False)
            if part.get("thought") is True:
                parts.append(Thinking(text, opaque, redacted, origin))
                continue
            parts += [Text(text)] if text else []
            parts += [Thinking("", opaque, redacted, origin)] if opaque is not None else []
        elif (media := media_of(part)) is not None:
            parts.append(media)
    return parts


def _signed(signature: str) -> Body:
    return {"text": "", "thoughtSignature": signature}


def _name(body: Any, name: str) -> str | None:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) and value else None


def _tokens(meta: Mapping[str, Any], name: str) -> int:
    value = meta.get(name)
    return value if type(value) is int and 0 <= value < 2**40 else 0


def _of_kind(kind: str, details: Any, most: int) -> int:
    rows = details if isinstance(details, list) else []
    found = sum(_tokens(row, "tokenCount") for row in rows if isinstance(row, dict) and row.get("modality") == kind)
    return min(found, most)


def _details(total: int, audio: int) -> list[Body]:
    return [
        {"modality": "TEXT", "tokenCount": max(0, total - audio)},
        {"modality": "AUDIO", "tokenCount": audio},
    ]
