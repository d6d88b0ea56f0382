import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.dialogue import Refusal, Request, Said, Stop, Text, Thinking, ToolCall
from backstay.gateway.errors import BudgetExceeded, ProviderFailed, ProviderTimeout
from backstay.gateway.models import Usage
from backstay.gateway.sse import SseParser
from backstay.gateway.wire.anthropic import WIRE
from backstay.kernel.errors import (
    BadRequest,
    Conflict,
    FieldError,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
)

ANSWER = {
    "id": "msg_013Zva2CMHLNnjNjJJKqJ2EF",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5-5",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCg=="},
        {"type": "redacted_thinking", "data": "EmwKAh=="},
        {"type": "text", "text": "I look.", "citations": None},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "weather",
            "input": {"city": "Bern"},
            "caller": {"type": "direct"},
        },
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 20},
}
SAID = Said(
    "msg_013Zva2CMHLNnjNjJJKqJ2EF",
    "claude-opus-5-5",
    (
        Thinking("Hm.", "EqQBCg==", origin="anthropic"),
        Thinking("", "EmwKAh==", redacted=True, origin="anthropic"),
        Text("I look."),
        ToolCall("toolu_1", "weather", '{"city":"Bern"}'),
    ),
    Stop.TOOL,
    Usage(15, 20, cached_tokens=5),
)
_counts = st.integers(0, 2**30)


def test_a_whole_answer_is_read():
    assert WIRE.read_answer(ANSWER) == SAID


def test_an_answer_comes_out_as_it_went_in():
    assert WIRE.read_answer(orjson.loads(orjson.dumps(WIRE.write_answer(SAID)))) == SAID


def test_a_refusal_says_why():
    body = ANSWER | {
        "content": [],
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "bio", "explanation": "Too dangerous."},
    }
    said = WIRE.read_answer(body)
    assert (said.parts, said.stop) == ((Refusal("Too dangerous."),), Stop.REFUSAL)
    assert WIRE.write_answer(said)["content"] == [{"type": "text", "text": "Too dangerous.", "citations": None}]


def test_what_other_formats_call_a_plain_end_is_told_as_clients_act_on_it():
    call = Said("m", "x", (ToolCall("a", "f", "no json"),), Stop.END)
    assert WIRE.write_answer(call)["stop_reason"] == "tool_use"
    assert WIRE.write_answer(call)["content"][0]["input"] == {"invalid_json": "no json"}
    assert WIRE.write_answer(Said("m", "x", (Refusal("No."),), Stop.END))["stop_reason"] == "refusal"
    assert WIRE.write_answer(Said("m", "x", (), None))["stop_reason"] == "end_turn"
    ended = WIRE.write_answer(Said("m", "x", (Text("a"),), Stop.SEQUENCE, sequence="#"))
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "#")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"content": "text"},
        {"type": "error", "error": {"type": "api_error", "message": "broken"}},
        {"error": "broken"},
        {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": orjson.loads(b"[" * 300 + b"]" * 300)}]},
    ],
)
def test_an_answer_without_content_is_a_failure_of_the_provider(body):
    with pytest.raises(ProviderFailed):
        WIRE.read_answer(body)


def test_the_message_of_an_error_in_an_answer_is_found():
    assert WIRE.error_of({"type": "error", "error": {"type": "api_error", "message": "broken"}}) == "broken"
    assert WIRE.error_of(ANSWER) is None
    assert WIRE.error_of([]) is None


@given(
    st.builds(
        lambda new, cached, minutes, hour, output, thought: Usage(
            new + cached + minutes + hour, output, cached, min(thought, output), minutes + hour, hour
        ),
        *[_counts] * 6,
    )
)
def test_usage_comes_out_as_it_went_in(usage):
    body = WIRE.write_answer(Said("m", "x", (), Stop.END, usage))
    assert WIRE.usage_of(body) == usage


def test_parts_are_never_more_than_their_whole():
    usage = {"input_tokens": 5, "output_tokens": 3, "output_tokens_details": {"thinking_tokens": 9}}
    assert WIRE.usage_of({"usage": usage}) == Usage(5, 3, reasoning_tokens=3)


def test_cached_tokens_are_outside_of_the_input_here():
    usage = Usage(140, 7, cached_tokens=100, written_tokens=30, written_hour_tokens=10)
    told = WIRE.write_answer(Said("m", "x", (), Stop.END, usage))["usage"]
    assert told["input_tokens"] == 10
    assert (told["cache_read_input_tokens"], told["cache_creation_input_tokens"]) == (100, 30)
    assert told["cache_creation"] == {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}


@pytest.mark.parametrize("usage", [None, 7, {}, {"input_tokens": -1}, {"input_tokens": True}, {"output_tokens": 1e9}])
def test_usage_that_says_nothing_counts_nothing(usage):
    assert WIRE.usage_of({"usage": usage}) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (Invalid("x"), "invalid_request_error"),
        (MethodNotAllowed("x"), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (BudgetExceeded("x"), "billing_error"),
        (Forbidden("x"), "permission_error"),
        (NotFound("x"), "not_found_error"),
        (Conflict("x"), "conflict_error"),
        (TooLarge("x"), "request_too_large"),
        (TooMany("x"), "rate_limit_error"),
        (ProviderFailed("x"), "api_error"),
        (Unavailable("x"), "overloaded_error"),
        (ProviderTimeout("idle", 3), "timeout_error"),
    ],
)
def test_an_error_has_the_type_of_its_status(error, kind):
    body = orjson.loads(WIRE.error_body(error, "req_1"))
    assert (body["type"], body["request_id"]) == ("error", "req_1")
    assert body["error"]["type"] == kind
    assert body["error"]["message"] == error.detail
    assert body["error"]["details"] == {"error_code": error.code}


def test_an_error_names_the_field():
    error = BadRequest("`messages` is wrong", errors=[FieldError("messages", "must be a list")])
    body = orjson.loads(WIRE.error_body(error))
    assert body["error"]["message"] == "messages: must be a list"
    assert body["error"]["details"]["field"] == "messages"
    assert "request_id" not in body


def test_an_error_in_the_middle_is_an_event_of_its_own_name_with_the_usage_so_far():
    event = WIRE.error_event(ProviderFailed("cut"), Usage(3, 4))
    assert event.startswith(b"event: error\ndata: ")
    body = orjson.loads(next(iter(SseParser().feed(event))))
    assert (body["error"]["type"], body["error"]["message"]) == ("api_error", "cut")
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"]) == (3, 4)


def test_frames_and_heartbeats_are_named():
    assert WIRE.frame({"type": "message_stop"}) == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert WIRE.ping() == b'event: ping\ndata: {"type": "ping"}\n\n'
    assert (WIRE.name, WIRE.end_mark) == ("anthropic", b"")


def test_a_stream_that_lost_its_last_event_gets_it():
    reader = WIRE.reader()
    request, said = Request(model="m", stream=True), Said("m", "x", (), Stop.END)
    assert WIRE.missing(reader, said, request) == [{"type": "message_stop"}]
    reader.feed(b'{"type": "message_stop"}')
    assert WIRE.missing(reader, said, request) == []
