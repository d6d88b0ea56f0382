import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.dialogue import (
    Began,
    RefusalDelta,
    Request,
    Stop,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    Used,
)
from backstay.gateway.errors import ProviderFailed
from backstay.gateway.models import Usage
from backstay.gateway.sse import SseParser
from backstay.gateway.wire.anthropic import WIRE
from unit.gateway.wire import anthropic_streams as streams

REQUEST = Request(model="claude-opus-5-5", stream=True)
_json = st.recursive(
    st.sampled_from([None, True, False, 0, 7, -1, 2**53, 1.5, "", "x", "ü\n", "text", "error"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "type"]), inner, max_size=2),
    max_leaves=4,
)


def follow(events):
    reader = WIRE.reader()
    return reader, [delta for event in events for delta in reader.feed(orjson.dumps(event))]


def test_a_text_is_followed():
    reader, deltas = follow(streams.TEXT)
    assert deltas == [
        Began("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-opus-5-5", Usage(25, 1)),
        TextDelta(0, "Hello"),
        TextDelta(0, "!"),
        Used(Usage(25, 15)),
        Stopped(Stop.END),
    ]
    assert (reader.done, reader.final, reader.malformed) == (True, True, 0)


def test_tool_calls_are_followed_and_one_without_arguments_has_none():
    _, deltas = follow(streams.TOOLS)
    assert deltas[2:-2] == [
        ToolBegan(1, "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather"),
        ToolDelta(1, '{"location":'),
        ToolDelta(1, ' "San Francisco, CA"}'),
        ToolBegan(2, "toolu_01Second", "get_time"),
        ToolDelta(2, "{}"),
    ]
    assert deltas[-1] == Stopped(Stop.TOOL)


def test_arguments_that_come_whole_with_the_call_are_taken_when_no_pieces_follow():
    call = streams.began(0, type="tool_use", id="t", name="n", input={"a": 1})
    _, deltas = follow([streams.start(), call, streams.ended(0)])
    assert deltas[1:] == [ToolBegan(0, "t", "n"), ToolDelta(0, '{"a":1}')]
    _, deltas = follow(
        [streams.start(), call, streams.delta(0, "input_json_delta", partial_json='{"b":2}'), streams.ended(0)]
    )
    assert deltas[1:] == [ToolBegan(0, "t", "n"), ToolDelta(0, '{"b":2}')]


def test_thoughts_keep_their_signature_and_hidden_ones_their_data():
    _, deltas = follow(streams.THINKING)
    thoughts = [delta for delta in deltas if isinstance(delta, ThinkingDelta)]
    assert [(t.block, t.text, t.signature, t.redacted) for t in thoughts] == [
        (0, "I need the greatest common divisor.", None, False),
        (0, " Euclid's steps: 1071 = 2 × 462 + 147.", None, False),
        (0, "", "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds==", False),
        (1, "", "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP", True),
    ]
    assert {thought.origin for thought in thoughts} == {"anthropic"}
    assert Used(Usage(30, 61, reasoning_tokens=40)) in deltas


def test_blocks_that_no_other_format_knows_are_skipped_and_the_rest_numbered_without_a_gap():
    reader, deltas = follow(streams.SERVER_TOOL)
    assert [delta for delta in deltas if isinstance(delta, TextDelta)] == [
        TextDelta(0, "I'll look."),
        TextDelta(1, "Sunny."),
    ]
    assert not any(isinstance(delta, ToolDelta | ToolBegan) for delta in deltas)
    assert deltas[-2:] == [Used(Usage(10682, 510, web_searches=1)), Stopped(Stop.END)]
    assert reader.malformed == 0


def test_a_refusal_is_told_in_the_words_that_came_with_it():
    _, deltas = follow(streams.REFUSED)
    assert deltas[-3:] == [Used(Usage(25, 15)), RefusalDelta(1, "This could do harm."), Stopped(Stop.REFUSAL)]


def test_an_error_in_the_middle_raises_what_the_provider_said():
    with pytest.raises(ProviderFailed, match="Overloaded"):
        follow(streams.BROKEN)
    with pytest.raises(ProviderFailed, match="no room"):
        WIRE.reader().feed(b'{"error": {"message": "no room"}}')
    with pytest.raises(ProviderFailed, match="did not say"):
        WIRE.reader().feed(b'{"type": "error"}')


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", Stop.END),
        ("max_tokens", Stop.LENGTH),
        ("model_context_window_exceeded", Stop.LENGTH),
        ("stop_sequence", Stop.SEQUENCE),
        ("tool_use", Stop.TOOL),
        ("refusal", Stop.REFUSAL),
        ("pause_turn", Stop.END),
        ("something_new", Stop.END),
    ],
)
def test_every_reason_of_an_end_has_its_meaning(reason, stop):
    _, deltas = follow(
        [streams.start(), streams.stopped(reason, sequence="###" if reason == "stop_sequence" else None)]
    )
    assert deltas[-1] == Stopped(stop, "###" if reason == "stop_sequence" else None)


def test_usage_is_cumulative_and_counts_cached_tokens_inside():
    first = {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
        "output_tokens": 1,
    }
    _, deltas = follow([streams.start(first), streams.stopped("end_turn", {"output_tokens": 7, "input_tokens": None})])
    used = Usage(140, 7, cached_tokens=100, written_tokens=30, written_hour_tokens=10)
    assert [delta.usage for delta in deltas if isinstance(delta, Used)] == [used]


def test_only_the_last_event_waits_for_the_settlement():
    reader = WIRE.reader()
    waits = []
    for event in streams.THINKING:
        reader.feed(orjson.dumps(event))
        waits.append(reader.final)
    assert waits == [False] * (len(streams.THINKING) - 1) + [True]


@pytest.mark.parametrize("events", streams.WHOLE.values(), ids=streams.WHOLE)
def test_a_relayed_stream_is_the_provider_s_byte_for_byte(events):
    sent = streams.wire_bytes([*events[:-1], {"type": "brand_new", "what": [1.50, "ü"]}, events[-1]])
    reader, got = WIRE.reader(), b""
    for data in SseParser().feed(sent):
        reader.feed(data)
        got += WIRE.relay(reader, data, REQUEST)
    assert got == sent
    assert reader.malformed == 0


def test_an_event_of_several_lines_is_relayed_in_several_lines():
    reader = WIRE.reader()
    [data] = SseParser().feed(b'event: ping\ndata: {"type":\ndata:  "ping"}\n\n')
    reader.feed(data)
    framed = WIRE.relay(reader, data, REQUEST)
    assert framed == b'event: ping\ndata: {"type":\ndata:  "ping"}\n\n'
    assert list(SseParser().feed(framed)) == [data]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[DONE]",
        b"7",
        b'"x"',
        b"{}",
        b'{"type": 3}',
        b'{"type": "ping\\ndata: forged"}',
        b'{"type": "message_start"}',
        b'{"type": "content_block_start", "index": 0}',
        b'{"type": "content_block_start", "index": "0", "content_block": {"type": "text"}}',
        b'{"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": 4}}',
        b'{"type": "content_block_delta", "index": 0, "delta": "x"}',
        b'{"type": "content_block_delta", "index": [], "delta": {"type": "text_delta", "text": "x"}}',
        b'{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": null}}',
        b'{"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta", "partial_json": "{}"}}',
        b'{"type": "content_block_stop", "index": null}',
    ],
)
def test_an_event_that_cannot_be_read_is_counted_and_not_passed_on(data):
    reader = WIRE.reader()
    assert list(reader.feed(data)) == []
    assert reader.malformed == 1
    assert reader.body is None
    assert WIRE.relay(reader, data, REQUEST) is None


def test_a_stream_without_the_beginnings_of_its_text_is_read_all_the_same():
    _, deltas = follow(
        [streams.start(), streams.delta(0, "text_delta", text="a"), streams.delta(0, "text_delta", text="b")]
    )
    assert deltas[1:] == [TextDelta(0, "a"), TextDelta(0, "b")]


_blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "else"])},
    optional=dict.fromkeys(["text", "thinking", "signature", "data", "id", "name", "input"], _json),
)
_deltas = st.fixed_dictionaries(
    {"type": st.sampled_from(["text_delta", "input_json_delta", "thinking_delta", "signature_delta", "else"])},
    optional=dict.fromkeys(["text", "partial_json", "thinking", "signature"], _json),
)
_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
                "ping",
                "else",
            ]
        )
        | _json
    },
    optional={
        "message": _json | st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "model", "usage"], _json)),
        "index": st.integers(0, 3) | _json,
        "content_block": _blocks | _json,
        "delta": _deltas | _json | st.fixed_dictionaries({"stop_reason": _json, "stop_details": _json}),
        "usage": _json | st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "cache_creation"]), _json),
    },
)


@given(st.lists(_events, max_size=12))
def test_any_events_are_read_or_counted(events):
    reader = WIRE.reader()
    for event in events:
        data = orjson.dumps(event)
        try:
            deltas = reader.feed(data)
        except ProviderFailed:
            return
        assert all(getattr(delta, "block", 0) >= 0 for delta in deltas)
        relayed = WIRE.relay(reader, data, REQUEST)
        assert (relayed is None) == (reader.body is None)


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_counted(data):
    reader = WIRE.reader()
    assert list(reader.feed(data)) == []
