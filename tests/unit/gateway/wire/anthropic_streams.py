"""Streams of the Messages API as its documentation shows them, event by event."""

from typing import Any

import orjson

Event = dict[str, Any]


def start(usage: Event | None = None, model: str = "claude-opus-5-5") -> Event:
    message = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 25, "output_tokens": 1},
    }
    return {"type": "message_start", "message": message}


def began(index: int, **block: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **rest: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **rest}}


def ended(index: int) -> Event:
    return {"type": "content_block_stop", "index": index}


def stopped(reason: str, usage: Event | None = None, sequence: str | None = None, **rest: Any) -> Event:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence, **rest},
        "usage": usage or {"output_tokens": 15},
    }


PING = {"type": "ping"}
STOP = {"type": "message_stop"}

TEXT = [
    start(),
    began(0, type="text", text=""),
    PING,
    delta(0, "text_delta", text="Hello"),
    delta(0, "text_delta", text="!"),
    ended(0),
    stopped("end_turn"),
    STOP,
]

TOOLS = [
    start({"input_tokens": 472, "output_tokens": 2}),
    began(0, type="text", text=""),
    delta(0, "text_delta", text="Okay, let's check."),
    ended(0),
    began(1, type="tool_use", id="toolu_01T1x1fJ34qAmk2tNTrN7Up6", name="get_weather", input={}),
    delta(1, "input_json_delta", partial_json=""),
    delta(1, "input_json_delta", partial_json='{"location":'),
    delta(1, "input_json_delta", partial_json=' "San Francisco, CA"}'),
    ended(1),
    began(2, type="tool_use", id="toolu_01Second", name="get_time", input={}),
    delta(2, "input_json_delta", partial_json=""),
    ended(2),
    stopped("tool_use", {"output_tokens": 89}),
    STOP,
]

THINKING = [
    start({"input_tokens": 30, "output_tokens": 4}),
    began(0, type="thinking", thinking="", signature=""),
    delta(0, "thinking_delta", thinking="I need the greatest common divisor."),
    delta(0, "thinking_delta", thinking=" Euclid's steps: 1071 = 2 × 462 + 147."),
    delta(0, "signature_delta", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds=="),
    ended(0),
    began(1, type="redacted_thinking", data="EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP"),
    ended(1),
    began(2, type="text", text=""),
    delta(2, "text_delta", text="It is 21."),
    ended(2),
    stopped("end_turn", {"output_tokens": 61, "output_tokens_details": {"thinking_tokens": 40}}),
    STOP,
]

SERVER_TOOL = [
    start({"input_tokens": 2679, "output_tokens": 3, "service_tier": "standard"}),
    began(0, type="text", text=""),
    delta(0, "text_delta", text="I'll look."),
    ended(0),
    began(1, type="server_tool_use", id="srvtoolu_014", name="web_search", input={}),
    delta(1, "input_json_delta", partial_json='{"query": "weather"}'),
    ended(1),
    began(2, type="web_search_tool_result", tool_use_id="srvtoolu_014", content=[]),
    ended(2),
    began(3, type="text", text=""),
    delta(3, "citations_delta", citation={"type": "web_search_result_location", "url": "https://a.test"}),
    delta(3, "text_delta", text="Sunny."),
    ended(3),
    stopped("pause_turn", {"input_tokens": 10682, "output_tokens": 510, "server_tool_use": {"web_search_requests": 1}}),
    STOP,
]

REFUSED = [
    start(),
    began(0, type="text", text=""),
    delta(0, "text_delta", text="Well"),
    ended(0),
    stopped(
        "refusal",
        stop_details={"type": "refusal", "category": "cyber", "explanation": "This could do harm."},
    ),
    STOP,
]

BROKEN = [
    start(),
    began(0, type="text", text=""),
    delta(0, "text_delta", text="Hel"),
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
]

WHOLE = {"text": TEXT, "tools": TOOLS, "thinking": THINKING, "server tool": SERVER_TOOL, "refused": REFUSED}


def wire_bytes(events: list[Event]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events)
