"""Messages of pydantic-ai as a chat completion asks for them, and a turn as pydantic-ai reads it."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from ...kernel.errors import BadRequest, ConfigurationError
from ..talk import Message
from ..turn import Turn

_SAME = {"max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias"}
_SETTINGS = {name: name for name in _SAME | {"parallel_tool_calls", "service_tier"}} | {"stop_sequences": "stop"}
_ELSEWHERE = {"tool_choice", "extra_body", "framing_announcement"}  # the last one is pydantic-ai's own affair
_THOUGHTS = "reasoning_details"


def request_of(
    messages: Iterable[ModelMessage], settings: Mapping[str, Any], parameters: ModelRequestParameters
) -> dict[str, Any]:
    """The body of the chat completion, without its model.

    Raises:
        BadRequest: a message holds what has no place in it. ConfigurationError: a setting cannot be passed on.
    """
    if unknown := sorted(set(settings) - set(_SETTINGS) - _ELSEWHERE):
        raise ConfigurationError(
            f"the model settings {', '.join(unknown)} cannot be passed on; "
            "what the provider knows by another name goes into `extra_body`"
        )
    body = {ours: settings[theirs] for theirs, ours in _SETTINGS.items() if settings.get(theirs) is not None}
    body |= settings.get("extra_body") or {}
    opening = [_system(part.content) for part in parameters.instruction_parts or ()]
    body["messages"] = opening + [told for message in messages for told in _told(message)]
    if tools := [_tool(tool) for tool in parameters.declared_tool_defs.values()]:
        body["tools"] = tools
        body["tool_choice"] = _choice(settings.get("tool_choice"), parameters)
    if parameters.output_mode == "native" and (output := parameters.output_object) is not None:
        schema = {"name": output.name or "output", "schema": output.json_schema}
        described = {"description": output.description} if output.description else {}
        strict = {} if output.strict is None else {"strict": output.strict}
        body["response_format"] = {"type": "json_schema", "json_schema": schema | described | strict}
    return body


def response_of(turn: Turn) -> ModelResponse:
    text = [TextPart(turn.text)] if turn.text else []
    calls = [ToolCallPart(call.name, call.arguments, tool_call_id=call.id) for call in turn.calls]
    return ModelResponse(
        parts=[*text, *calls],
        usage=RequestUsage(input_tokens=turn.input_tokens, output_tokens=turn.output_tokens),
        model_name=turn.model,
        provider_name="backstay",
        provider_details={_THOUGHTS: list(turn.thoughts)} if turn.thoughts else None,
        provider_response_id=str(turn.call),
        finish_reason="tool_call" if turn.calls else "stop",
    )


def _told(message: ModelMessage) -> list[Message]:
    return _asked(message) if isinstance(message, ModelRequest) else _answered(message)


def _asked(request: ModelRequest) -> list[Message]:
    told: list[Message] = []
    files: list[UserContent] = []
    for part in request.parts:
        match part:
            case SystemPromptPart():
                told.append(_system(part.content))
            case UserPromptPart():
                told.append({"role": "user", "content": _content(part.content)})
            case ToolReturnPart():
                text, more = part.model_response_str_and_user_content()
                told.append({"role": "tool", "tool_call_id": part.tool_call_id, "content": text})
                files += more
            case _:
                raise BadRequest(f"the message part {part.part_kind} has no place in a chat completion")
    if files:
        told.append({"role": "user", "content": _content(files)})
    return told


def _answered(response: ModelResponse) -> list[Message]:
    """Thoughts go back only as the gateway gave them; files and calls of providers' own tools do not."""
    text = "\n\n".join(part.content for part in response.parts if isinstance(part, TextPart))
    calls = [_call(part) for part in response.parts if isinstance(part, ToolCallPart)]
    message: Message = {"role": "assistant", "content": text or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    if response.provider_name == "backstay" and (thoughts := (response.provider_details or {}).get(_THOUGHTS)):
        message[_THOUGHTS] = thoughts
    return [message]


def _content(content: str | Iterable[UserContent]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [_piece(item) for item in content if not isinstance(item, CachePoint)]


def _piece(item: UserContent) -> dict[str, Any]:
    match item:
        case str():
            return {"type": "text", "text": item}
        case TextContent():
            return {"type": "text", "text": item.content}
        case ImageUrl():
            return {"type": "image_url", "image_url": {"url": item.url}}
        case BinaryContent() if item.is_image:
            return {"type": "image_url", "image_url": {"url": item.data_uri}}
    raise BadRequest(f"a {type(item).__name__} cannot be sent to the model: texts and pictures can")


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _call(part: ToolCallPart) -> dict[str, Any]:
    function = {"name": part.tool_name, "arguments": part.args_as_json_str()}
    return {"id": part.tool_call_id, "type": "function", "function": function}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters_json_schema}
    strict = {} if tool.strict is None else {"strict": tool.strict}
    return {"type": "function", "function": function | strict}


def _choice(wanted: Any, parameters: ModelRequestParameters) -> str:
    if wanted is None:
        return "auto" if parameters.allow_text_output else "required"
    if wanted not in ("auto", "required", "none"):
        raise ConfigurationError(f"tool_choice {wanted!r} cannot be passed on: `auto`, `required` and `none` can")
    return str(wanted)
