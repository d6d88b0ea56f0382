"""A request for a Gemini model, written from no one's words.

Left out, since Gemini has no word for them: cache breakpoints (its cache works by itself), the user, strictness of
tools, the wish for one call at a time, the detail of a picture, and thoughts that another provider signed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ...dialogue import Ask, Media, Output, Part, Reasoning, Refusal, Text, Thinking, ToolCall, ToolChoice, ToolResult
from ..base import Body
from ..fields import wrong
from . import schema as schemas
from .ids import unpack_id

# What Google tells those to send whose history holds function calls that no Gemini model of today has signed.
FOREIGN_SIGNATURE = "skip_thought_signature_validator"
_UNSIGNED_MODELS = re.compile(r"gemini-[12]\b|gemma|learnlm|aqa")
_THOUGHTLESS_MODELS = re.compile(r"gemini-(1|2\.0)\b|gemma|learnlm|aqa")
_BUDGETED_MODELS = re.compile(r"gemini-2\.5\b")
_GOOGLE_FILE = re.compile(r"https://generativelanguage\.googleapis\.com/|gs://|files/")
_DATA_URL = re.compile(r"data:([^;,]+)(?:;[^,]*)?;base64,")
# The budgets that Google's own table sets beside the efforts, and the levels beside the budgets.
_BUDGETS = {"minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
_LEVELS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def write(ask: Ask) -> Body:
    """The body for `generateContent` and `streamGenerateContent`; model and streaming stand in the path.

    Raises:
        BadRequest: Gemini cannot say something that the request depends on (400).
    """
    body: Body = {"contents": _contents(ask)}
    if system := [{"text": part.text} for part in ask.system if part.text]:
        body["systemInstruction"] = {"parts": system}
    if ask.tools:
        body["tools"] = [{"functionDeclarations": [_function(tool) for tool in ask.tools]}]
        if ask.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _calling(ask.tool_choice)}
    if config := _config(ask):
        body["generationConfig"] = config
    return body


def is_newest(model: str) -> bool:
    """Gemini 3 and later: function calls must be signed, functions may give pictures."""
    return not _UNSIGNED_MODELS.search(model)


def _contents(ask: Ask) -> list[Body]:
    names = {
        unpack_id(part.id)[0]: part.name for turn in ask.turns for part in turn.parts if isinstance(part, ToolCall)
    }
    contents: list[Body] = []
    for turn in ask.turns:
        role = "model" if turn.role == "assistant" else "user"
        parts = _said(turn.parts) if role == "model" else _given(turn.parts, names, is_newest(ask.model))
        if contents and contents[-1]["role"] == role:
            # All results of one turn's calls must stand in one content.
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    for content in contents:
        if content["role"] == "user":
            # The results come first; a question may follow them.
            content["parts"].sort(key=lambda part: "functionResponse" not in part)
        elif is_newest(ask.model):
            _sign(content["parts"])
    if not contents:
        raise wrong("contents", "must hold something that a Gemini model can read")
    return contents


def _said(parts: Iterable[Part]) -> list[Body]:
    written: list[Body] = []
    for part in parts:
        match part:
            case Text(text=text) | Refusal(text=text) if text:
                written.append({"text": text})
            case Thinking(signature=str(signature), origin="gemini"):
                last = written[-1] if written else {}
                if part.text:
                    written.append({"text": part.text, "thought": True, "thoughtSignature": signature})
                elif "text" in last and "thoughtSignature" not in last:
                    last["thoughtSignature"] = signature
                else:
                    written.append({"text": "", "thoughtSignature": signature})
            case ToolCall():
                written.append(_call(part))
            case Media():
                written.append(_media(part))
    return written


def _call(call: ToolCall) -> Body:
    id, packed = unpack_id(call.id)
    try:
        args = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        args = None
    if not isinstance(args, dict):
        raise wrong(f"arguments of {call.name}", "must be the JSON text of an object, as Gemini takes nothing else")
    part: Body = {"functionCall": {"id": id, "name": call.name, "args": args}}
    if signature := call.signature or packed:
        part["thoughtSignature"] = signature
    return part


def _sign(parts: list[Body]) -> None:
    """The first call of a turn carries its signature; the placeholder, when no call of the turn has any."""
    calls = [part for part in parts if "functionCall" in part]
    if calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = FOREIGN_SIGNATURE


def _given(parts: Iterable[Part], names: Mapping[str, str], pictures: bool) -> list[Body]:
    written: list[Body] = []
    for part in parts:
        match part:
            case Text(text=text) if text:
                written.append({"text": text})
            case Media():
                written.append(_media(part))
            case ToolResult():
                written += _result(part, names, pictures)
    return written


def _result(result: ToolResult, names: Mapping[str, str], pictures: bool) -> list[Body]:
    id = unpack_id(result.call)[0]
    name = names.get(id) or result.name
    if not name:
        raise wrong(f"result of {id}"[:200], "answers no call of this conversation")
    text = "\n".join(part.text for part in result.parts if isinstance(part, Text))
    response: Body = {"id": id, "name": name, "response": _response(text, result.error)}
    media = [_media(part) for part in result.parts if isinstance(part, Media)]
    inside = [part for part in media if pictures and "inlineData" in part]
    if inside:
        response["parts"] = inside
    # Older models read what a function showed beside its response.
    return [{"functionResponse": response}, *(part for part in media if part not in inside)]


def _response(text: str, error: bool) -> Body:
    if error:
        return {"error": text}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"output": text}
    return value if isinstance(value, dict) else {"output": text}


def _media(media: Media) -> Body:
    kind, data = media.type, media.data
    if media.url is not None and (found := _DATA_URL.match(media.url)):
        kind, data = found[1], media.url[found.end() :]
    if data is not None:
        if not kind:
            raise wrong(media.kind, "must say its media type (image/png, say), which Gemini asks for")
        return {"inlineData": {"mimeType": kind, "data": data}}
    uri = media.url if media.file is None else media.file
    if uri is None or (media.file is not None and not _GOOGLE_FILE.match(media.file)):
        raise wrong(
            media.kind, "is a file of another provider, which Gemini cannot read; send its bytes or an https URL"
        )
    return {"fileData": {"fileUri": uri} | ({"mimeType": kind} if kind else {})}


def _function(tool: Any) -> Body:
    function: Body = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters and not schemas.is_empty(tool.parameters):
        function["parametersJsonSchema"] = schemas.for_google(tool.parameters, f"parameters of {tool.name}")
    return function


def _calling(choice: ToolChoice) -> Body:
    if choice.mode == "tool":
        if not choice.name:
            raise wrong("tool_choice", "must name the function that must be called")
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    return {"mode": choice.mode.upper()}


def _config(ask: Ask) -> Body:
    config = {
        "maxOutputTokens": ask.max_tokens,
        "temperature": ask.temperature,
        "topP": ask.top_p,
        "topK": ask.top_k,
        "stopSequences": list(ask.stop) or None,
        "seed": ask.seed,
        "presencePenalty": ask.presence_penalty,
        "frequencyPenalty": ask.frequency_penalty,
        "candidateCount": ask.choices if ask.choices > 1 else None,
        "thinkingConfig": _thinking(ask.reasoning, ask.model) if ask.reasoning is not None else None,
    }
    return {name: value for name, value in config.items() if value is not None} | _format(ask.output)


def _format(output: Output | None) -> Body:
    if output is None:
        return {}
    wanted: Body = {"responseMimeType": "application/json"}
    if output.schema is not None:
        wanted["responseJsonSchema"] = schemas.for_google(output.schema, "schema of the output")
    return wanted


def _thinking(reasoning: Reasoning, model: str) -> Body | None:
    """How hard to think, as this model wants it said: a level since Gemini 3, a budget in 2.5, nothing before."""
    if _THOUGHTLESS_MODELS.search(model):
        return None
    effort = "none" if reasoning.budget == 0 else reasoning.effort
    thinking: Body = {}
    if _BUDGETED_MODELS.search(model):
        least, most = (128, 32_768) if "pro" in model else (0, 24_576)
        wanted = reasoning.budget if reasoning.budget is not None or effort is None else _BUDGETS.get(effort, 0)
        if wanted is not None:
            thinking["thinkingBudget"] = min(max(wanted, least), most)
    elif reasoning.budget:
        thinking["thinkingLevel"] = (
            "low" if reasoning.budget <= 2_048 else "medium" if reasoning.budget <= 12_288 else "high"
        )
    elif effort is not None:
        # Since Gemini 3 thinking cannot be switched off, and only Flash models know the least of it.
        thinking["thinkingLevel"] = _LEVELS.get(effort, "minimal" if "flash" in model else "low")
    if reasoning.shown is not None:
        thinking["includeThoughts"] = reasoning.shown
    return thinking or None
