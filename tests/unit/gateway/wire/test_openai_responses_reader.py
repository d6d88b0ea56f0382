"""Streams as OpenAI's reference shows them, written out by hand."""

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
from backstay.gateway.wire.responses import OpenAIResponses

wire = OpenAIResponses()
ASKED = Request("gpt-5.2")
USAGE = {
    "input_tokens": 37,
    "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 7},
    "output_tokens": 11,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 48,
}
BEGAN = Began("resp_67c9", "gpt-5.2-2025-12-11", created=1741290958)
USED = Used(Usage(37, 11, 5, 4, 7))


def response(status="in_progress", output=(), usage=None, **fields):
    return {
        "id": "resp_67c9",
        "object": "response",
        "created_at": 1741290958,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-5.2-2025-12-11",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
        **fields,
    }


def stream(*middle, ending="completed", output=(), **fields):
    """The events of one stream: the head, `middle`, and the response at its end."""
    events = [
        {"type": "response.created", "response": response()},
        {"type": "response.in_progress", "response": response()},
        *middle,
        {"type": f"response.{ending}", "response": response(ending, output, USAGE, **fields)},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def item(what, index, item):
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}


def at(type, item, index=0, **fields):
    return {"type": f"response.{type}", "item_id": item, "output_index": index, **fields}


def text(words, id="msg_67c9", index=0):
    """The events of a message with one text."""
    whole = {"type": "output_text", "text": "".join(words), "annotations": []}
    message = {"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [whole]}
    return [
        item("added", index, message | {"status": "in_progress", "content": []}),
        at("content_part.added", id, index, content_index=0, part=whole | {"text": ""}),
        *[at("output_text.delta", id, index, content_index=0, delta=word, logprobs=[]) for word in words],
        at("output_text.done", id, index, content_index=0, text="".join(words), logprobs=[]),
        at("content_part.done", id, index, content_index=0, part=whole),
        item("done", index, message),
    ], message


def call(pieces, id, index, call_id, name):
    """The events of a function call."""
    whole = {"id": id, "type": "function_call", "status": "completed", "call_id": call_id, "name": name}
    arguments = "".join(pieces)
    return [
        item("added", index, whole | {"status": "in_progress", "arguments": ""}),
        *[at("function_call_arguments.delta", id, index, delta=piece) for piece in pieces],
        at("function_call_arguments.done", id, index, arguments=arguments),
        item("done", index, whole | {"arguments": arguments}),
    ], whole | {"arguments": arguments}


def follow(events):
    reader = wire.reader()
    deltas = [delta for event in events for delta in reader.feed(orjson.dumps(event))]
    return reader, deltas


def test_a_text_is_read_from_its_deltas_and_not_again_from_its_snapshots():
    events, message = text(["Hi", " there", "!"])
    reader, deltas = follow(stream(*events, output=[message]))
    said = [TextDelta(0, "Hi"), TextDelta(0, " there"), TextDelta(0, "!")]
    assert deltas == [BEGAN, *said, USED, Stopped(Stop.END)]
    assert (reader.done, reader.final, reader.malformed) == (True, True, 0)


def test_only_the_event_with_the_whole_response_is_held_until_settlement():
    events, message = text(["Hi"])
    reader, seen = wire.reader(), []
    for event in stream(*events, output=[message]):
        reader.feed(orjson.dumps(event))
        seen.append((event["type"], reader.final, reader.done))
    assert seen[-1] == ("response.completed", True, True)
    assert all(not final and not done for _, final, done in seen[:-1])
    reader.feed(orjson.dumps({"type": "response.of_tomorrow"}))
    assert (reader.final, reader.done) == (False, True)


def test_parallel_calls_are_two_blocks_even_when_their_deltas_cross():
    paris, whole_paris = call(['{"city":', '"Paris"}'], "fc_1", 0, "call_1", "get_weather")
    rome, whole_rome = call(['{"city":', '"Rome"}'], "fc_2", 1, "call_2", "get_weather")
    _, deltas = follow(stream(*paris, *rome, output=[whole_paris, whole_rome]))
    first = [ToolBegan(0, "call_1", "get_weather"), ToolDelta(0, '{"city":'), ToolDelta(0, '"Paris"}')]
    second = [ToolBegan(1, "call_2", "get_weather"), ToolDelta(1, '{"city":'), ToolDelta(1, '"Rome"}')]
    assert deltas == [BEGAN, *first, *second, USED, Stopped(Stop.TOOL)]
    crossed = [event for pair in zip(paris, rome, strict=True) for event in pair]
    _, deltas = follow(stream(*crossed, output=[whole_paris, whole_rome]))
    assert [delta for delta in deltas if delta in first] == first
    assert [delta for delta in deltas if delta in second] == second


def test_a_thought_comes_as_summary_with_its_encrypted_content_at_the_end():
    thought = {"id": "rs_1", "type": "reasoning", "summary": []}
    parts = [{"type": "summary_text", "text": words} for words in ("First, look.", "Then leap.")]
    events = [item("added", 0, thought)]
    for index, part in enumerate(parts):
        events += [
            at("reasoning_summary_part.added", "rs_1", summary_index=index, part=part | {"text": ""}),
            at("reasoning_summary_text.delta", "rs_1", summary_index=index, delta=part["text"]),
            at("reasoning_summary_text.done", "rs_1", summary_index=index, text=part["text"]),
            at("reasoning_summary_part.done", "rs_1", summary_index=index, part=part),
        ]
    whole = thought | {"summary": parts, "encrypted_content": "gAAAAABo"}
    said, message = text(["Leap."], "msg_2", 1)
    _, deltas = follow(stream(*events, item("done", 0, whole), *said, output=[whole, message]))
    origin = {"origin": "openai-responses", "id": "rs_1"}
    assert deltas[1:-2] == [
        ThinkingDelta(0, "First, look.", **origin),
        ThinkingDelta(0, "\n\nThen leap.", **origin),
        ThinkingDelta(0, "", "gAAAAABo", **origin),
        TextDelta(1, "Leap."),
    ]


def test_raw_thoughts_are_read_and_a_summary_of_them_is_not_added():
    events = [
        item("added", 0, {"id": "rs_1", "type": "reasoning", "summary": []}),
        at("reasoning_text.delta", "rs_1", content_index=0, delta="Hm"),
        at("reasoning_text.delta", "rs_1", content_index=0, delta=", yes."),
        at("reasoning_summary_text.delta", "rs_1", summary_index=0, delta="Thought about it."),
    ]
    _, deltas = follow(stream(*events))
    assert [delta.text for delta in deltas if isinstance(delta, ThinkingDelta)] == ["Hm", ", yes."]


def test_a_thought_that_shows_nothing_still_gives_its_encrypted_content():
    whole = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    said, message = text(["Yes."], "msg_2", 1)
    _, deltas = follow(stream(item("added", 0, whole), item("done", 0, whole), *said, output=[whole, message]))
    thought = ThinkingDelta(0, "", "gAAA", origin="openai-responses", id="rs_1")
    assert deltas[1:-2] == [thought, TextDelta(1, "Yes.")]


def test_a_refusal_is_told_apart_from_text():
    part = {"type": "refusal", "refusal": "I can't help with that."}
    message = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    events = [
        item("added", 0, message | {"content": [], "status": "in_progress"}),
        at("content_part.added", "msg_1", content_index=0, part={"type": "refusal", "refusal": ""}),
        at("refusal.delta", "msg_1", content_index=0, delta="I can't help"),
        at("refusal.delta", "msg_1", content_index=0, delta=" with that."),
        at("refusal.done", "msg_1", content_index=0, refusal=part["refusal"]),
        at("content_part.done", "msg_1", content_index=0, part=part),
        item("done", 0, message),
    ]
    _, deltas = follow(stream(*events, output=[message]))
    said = [RefusalDelta(0, "I can't help"), RefusalDelta(0, " with that.")]
    assert deltas == [BEGAN, *said, USED, Stopped(Stop.END)]


@pytest.mark.parametrize(
    ("reason", "stop"), [("max_output_tokens", Stop.LENGTH), ("content_filter", Stop.REFUSAL), (None, Stop.LENGTH)]
)
def test_an_incomplete_response_says_why_it_ended(reason, stop):
    events, message = text(["Once upon"])
    details = {"reason": reason} if reason else None
    reader, deltas = follow(stream(*events, ending="incomplete", output=[message], incomplete_details=details))
    assert deltas[-2:] == [USED, Stopped(stop)]
    assert reader.done
    assert reader.final


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "server_error", "message": "Overloaded.", "param": None, "sequence_number": 3},
        {"type": "error", "sequence_number": 3, "error": {"type": "tokens", "code": "x", "message": "Overloaded."}},
        {"type": "response.failed", "response": response("failed", error={"code": "x", "message": "Overloaded."})},
        {"type": "response.completed", "response": response("failed", error={"code": "x", "message": "Overloaded."})},
        {"error": {"message": "Overloaded.", "type": "server_error"}},
    ],
)
def test_an_error_of_the_provider_raises_and_says_what_it_said(event):
    reader = wire.reader()
    events, _ = text(["Hi"])
    for earlier in stream(*events)[:5]:
        reader.feed(orjson.dumps(earlier))
    with pytest.raises(ProviderFailed, match=r"Overloaded\."):
        reader.feed(orjson.dumps(event))
    assert not reader.done


def test_a_failure_without_a_reason_raises_too():
    for event in ({"type": "response.failed"}, {"type": "response.failed", "response": response("failed")}):
        with pytest.raises(ProviderFailed):
            wire.reader().feed(orjson.dumps(event))


def test_answers_that_come_only_as_snapshots_are_not_lost():
    _, message = text(["Hi there"])
    _, called = call(['{"a":1}'], "fc_1", 1, "call_1", "add")
    expected = [
        BEGAN,
        TextDelta(0, "Hi there"),
        ToolBegan(1, "call_1", "add"),
        ToolDelta(1, '{"a":1}'),
        USED,
        Stopped(Stop.TOOL),
    ]
    done = [item("done", 0, message), item("done", 1, called)]
    assert follow(stream(*done, output=[message, called]))[1] == expected
    assert follow(stream(output=[message, called]))[1] == expected
    assert follow(stream(output=[message, called])[-1:])[1] == expected


def test_arguments_that_come_only_at_the_end_of_their_call_are_read_there():
    events, called = call([], "fc_1", 0, "call_1", "add")
    _, deltas = follow(stream(events[0], item("done", 0, called | {"arguments": '{"a":1}'}), output=[called]))
    assert deltas[1:-2] == [ToolBegan(0, "call_1", "add"), ToolDelta(0, '{"a":1}')]


def test_calls_of_custom_tools_are_followed_like_functions():
    whole = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_1", "name": "shell", "input": "ls"}
    events = [
        item("added", 0, whole | {"input": ""}),
        at("custom_tool_call_input.delta", "ctc_1", delta="ls"),
        item("done", 0, whole),
    ]
    _, deltas = follow(stream(*events, output=[whole]))
    assert deltas[1:] == [ToolBegan(0, "call_1", "shell"), ToolDelta(0, "ls"), USED, Stopped(Stop.TOOL)]


def test_the_provider_s_bytes_are_relayed_as_they_came():
    events, message = text(["Hi"])
    search = {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 0}
    reader, parser, relayed = wire.reader(), SseParser(), []
    # As some server might write it: spaces, an unknown field, an event that we do not know.
    sent = [
        orjson.dumps(event | {"obfuscation": "x"}).replace(b'":', b'" : ')
        for event in stream(search, *events, output=[message])
    ]
    for data in sent:
        reader.feed(data)
        relayed.append(wire.relay(reader, data, ASKED))
    assert list(parser.feed(b"".join(relayed))) == sent
    assert relayed[2].startswith(b"event: response.web_search_call.searching\ndata: {")
    assert wire.end_mark == b""


def test_an_event_of_several_lines_stays_one_event():
    data = b'{\n  "type": "response.of_tomorrow"\n}'
    reader = wire.reader()
    reader.feed(data)
    assert list(SseParser().feed(wire.relay(reader, data, ASKED))) == [data]


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense",
        b"[1]",
        b"7",
        b'{"no":"type"}',
        b'{"type":7}',
        b'{"type":"a\\nevent: b"}',
        b'{"type":"response.output_text.delta","delta":7}',
        b'{"type":"response.output_text.delta","delta":"a","output_index":[]}',
        b'{"type":"response.refusal.delta"}',
        b'{"type":"response.function_call_arguments.delta","delta":null}',
        b'{"type":"response.output_item.added","item":"x"}',
        b'{"type":"response.completed","response":null}',
    ],
)
def test_a_malformed_event_is_skipped_and_counted(data):
    reader = wire.reader()
    assert list(reader.feed(data)) == []
    assert (reader.malformed, reader.body, reader.done) == (1, None, False)
    assert wire.relay(reader, data, ASKED) is None
    assert reader.feed(orjson.dumps(at("output_text.delta", "msg_1", content_index=0, delta="on"))) == (
        TextDelta(0, "on"),
    )


def test_the_end_mark_of_chat_is_neither_relayed_nor_counted():
    reader = wire.reader()
    assert (list(reader.feed(b"[DONE]")), reader.malformed, reader.done) == ([], 0, False)
    assert wire.relay(reader, b"[DONE]", ASKED) is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "id", "content", "text", "summary", "name"]), inner, max_size=4)
    ),
    max_leaves=8,
)
_known = [event["type"] for event in stream(*text(["a"])[0], *call(["{}"], "f", 1, "c", "n")[0])]
_known += ["response.reasoning_summary_text.delta", "response.incomplete", "response.failed", "error", "x"]
_kinds = st.sampled_from(["message", "function_call", "reasoning", "custom_tool_call"])
_items = st.fixed_dictionaries(
    {"type": _kinds}, optional=dict.fromkeys(["content", "summary", "encrypted_content", "arguments", "call_id"], _json)
)
_events = st.fixed_dictionaries(
    {"type": st.sampled_from(_known)},
    optional={
        "item": _items | _json,
        "response": st.fixed_dictionaries({"output": st.lists(_items, max_size=2) | _json}) | _json,
        **dict.fromkeys(["delta", "output_index", "content_index", "summary_index", "error"], _json),
    },
)


@given(st.lists(_events | _json, max_size=8))
def test_whatever_a_provider_streams_is_followed_or_is_its_failure(events):
    reader = wire.reader()
    for event in events:
        data = orjson.dumps(event)
        try:
            deltas = reader.feed(data)
        except ProviderFailed:
            return
        assert all(isinstance(delta.text, str) for delta in deltas if isinstance(delta, TextDelta | RefusalDelta))
        relayed = wire.relay(reader, data, ASKED)
        assert relayed is None or list(SseParser().feed(relayed)) == [data]
