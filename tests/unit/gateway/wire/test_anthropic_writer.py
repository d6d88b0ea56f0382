from itertools import groupby

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

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
from backstay.gateway.models import Usage
from backstay.gateway.wire.anthropic import WIRE
from backstay.gateway.wire.gemini.ids import unpack_id

REQUEST = Request(model="openai:gpt-6-sol", stream=True)
USAGE = Usage(12, 34, reasoning_tokens=5)
_officially = TypeAdapter(RawMessageStreamEvent)
_words = st.sampled_from(["", " ", "a", "wörld", "{", "}", "{}", '{"a": 1}', "\n"])


def write(deltas, usage=USAGE):
    writer = WIRE.writer(REQUEST)
    events = [event for delta in deltas for event in writer.feed([delta])]
    return events, writer.end(usage)


def content_of(events):
    """The blocks that a client puts together from the events."""
    blocks = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            match delta["type"]:
                case "text_delta":
                    block["text"] += delta["text"]
                case "thinking_delta":
                    block["thinking"] += delta["thinking"]
                case "signature_delta":
                    block["signature"] = delta["signature"]
                case "input_json_delta":
                    block["json"] = block.get("json", "") + delta["partial_json"]
    return blocks


def test_a_text_has_the_events_that_the_documentation_shows():
    events, end = write(
        [Began("msg_1", "gpt-6", Usage(12)), TextDelta(0, "Hel"), TextDelta(0, "lo"), Stopped(Stop.END)]
    )
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
    ]
    message = events[0]["message"]
    assert (message["id"], message["model"], message["role"], message["content"]) == ("msg_1", "gpt-6", "assistant", [])
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (12, 0)
    assert [event["type"] for event in end] == ["message_delta", "message_stop"]
    assert end[0]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (end[0]["usage"]["input_tokens"], end[0]["usage"]["output_tokens"]) == (12, 34)


def test_calls_that_come_interleaved_leave_one_after_the_other():
    writer = WIRE.writer(REQUEST)
    begun = writer.feed([Began("m", "x"), ToolBegan(0, "a", "f"), ToolBegan(1, "b", "g")])
    assert [event["type"] for event in begun] == ["message_start", "content_block_start"]
    assert writer.feed([ToolDelta(1, '{"y": 2}')]) == []
    assert [event["delta"]["partial_json"] for event in writer.feed([ToolDelta(0, '{"x": {}')])] == ['{"x": {}']
    rest = writer.feed([ToolDelta(0, "}")])
    assert [(event["type"], event["index"]) for event in rest] == [
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
    ]
    assert rest[-1]["delta"]["partial_json"] == '{"y": 2}'


def test_a_text_behind_an_unfinished_call_waits_and_is_not_lost():
    deltas = [ToolBegan(0, "a", "f"), ToolDelta(0, '{"x":'), TextDelta(1, "so"), ToolDelta(0, "1}"), TextDelta(1, "!")]
    events, _ = write(deltas)
    blocks = content_of(events)
    assert [block["type"] for block in blocks] == ["tool_use", "text"]
    assert (blocks[0]["json"], blocks[1]["text"]) == ('{"x":1}', "so!")


def test_other_answers_to_the_same_question_are_left_out():
    events, _ = write([TextDelta(0, "a"), TextDelta(1, "b", choice=1), TextDelta(0, "c"), Stopped(Stop.END, choice=1)])
    assert [block["text"] for block in content_of(events)] == ["ac"]


def test_what_comes_after_the_end_of_a_call_s_arguments_is_no_part_of_it():
    deltas = [ToolBegan(0, "a", "f"), ToolDelta(0, "{}"), TextDelta(1, "so"), ToolDelta(0, "\n"), TextDelta(1, "!")]
    events, end = write(deltas)
    check_order([*events, *end])
    assert [block.get("json") or block["text"] for block in content_of(events)] == ["{}", "so!"]


def test_a_text_behind_its_own_end_begins_anew():
    events, end = write([TextDelta(0, "a"), ThinkingDelta(1, "b"), TextDelta(0, "c")])
    check_order([*events, *end])
    assert [block["type"] for block in content_of(events)] == ["text", "thinking", "text"]


def test_what_waits_leaves_when_the_model_has_stopped():
    events, _ = write([ToolBegan(0, "a", "f"), ToolBegan(1, "b", "g"), ToolDelta(1, "{}"), Stopped(Stop.TOOL)])
    assert [(block["id"], block.get("json")) for block in content_of(events)] == [("a", None), ("b", "{}")]


def test_a_signature_is_the_last_of_its_thought():
    thought = [
        ThinkingDelta(0, "hm", origin="anthropic"),
        ThinkingDelta(0, signature="sig", origin="anthropic"),
        ThinkingDelta(0, "!", origin="anthropic"),
    ]
    events, _ = write([*thought, TextDelta(1, "so")])
    assert [event["delta"]["type"] for event in events if "delta" in event] == [
        "thinking_delta",
        "thinking_delta",
        "signature_delta",
        "text_delta",
    ]
    assert content_of(events)[0] == {"type": "thinking", "thinking": "hm!", "signature": "sig"}


def test_a_hidden_thought_keeps_its_data():
    events, _ = write([ThinkingDelta(0, signature="data", redacted=True, origin="anthropic"), TextDelta(1, "so")])
    assert content_of(events)[0] == {"type": "redacted_thinking", "data": "data"}


def test_thoughts_of_other_formats_come_back_whole_from_a_client():
    given = ThinkingDelta(0, "why", "gAAAA", origin="openai-responses", id="rs_1")
    events, _ = write([given, TextDelta(1, "so")])
    turn = {"role": "assistant", "content": content_of(events)}
    ask = WIRE.read({"model": "m", "messages": [turn]})
    thought = ask.turns[0].parts[0]
    assert (thought.text, thought.signature, thought.origin, thought.id) == ("why", "gAAAA", "openai-responses", "rs_1")
    events, _ = write([ThinkingDelta(0, "unsigned", origin="openai-chat")])
    assert content_of(events) == [{"type": "thinking", "thinking": "unsigned", "signature": ""}]


def test_gemini_s_signature_of_a_call_travels_in_its_id():
    events, _ = write([ToolBegan(0, "call_1", "f", signature="c2ln"), ToolDelta(0, "{}")])
    block = content_of(events)[0]
    assert unpack_id(block["id"]) == ("call_1", "c2ln")
    turns = [
        {"role": "assistant", "content": [{"type": "tool_use", "id": block["id"], "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}]},
    ]
    ask = WIRE.read({"model": "m", "messages": turns})
    assert (ask.turns[0].parts[0].id, ask.turns[0].parts[0].signature) == ("call_1", "c2ln")
    assert ask.turns[1].parts[0].call == "call_1"


@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        ([Stopped(Stop.END)], "end_turn"),
        ([Stopped(Stop.LENGTH)], "max_tokens"),
        ([Stopped(Stop.TOOL)], "tool_use"),
        ([Stopped(Stop.REFUSAL)], "refusal"),
        ([Stopped(Stop.SEQUENCE, "###")], "stop_sequence"),
        ([ToolBegan(0, "a", "f"), Stopped(Stop.END)], "tool_use"),
        ([RefusalDelta(0, "No."), Stopped(Stop.END)], "refusal"),
        ([RefusalDelta(0, "No."), Stopped(Stop.LENGTH)], "max_tokens"),
        ([], "end_turn"),
    ],
)
def test_the_reason_of_the_end_is_one_that_clients_act_on(deltas, reason):
    _, end = write(deltas)
    delta = next(event for event in end if event["type"] == "message_delta")["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": "###" if reason == "stop_sequence" else None}


_blocks = st.integers(0, 3)
_any_delta = (
    st.builds(TextDelta, _blocks, _words, choice=st.integers(0, 1))
    | st.builds(RefusalDelta, _blocks, _words)
    | st.builds(
        ThinkingDelta,
        _blocks,
        _words,
        signature=st.sampled_from([None, "s"]),
        redacted=st.booleans(),
        origin=st.sampled_from([None, "anthropic", "gemini"]),
    )
    | st.builds(ToolBegan, _blocks, st.sampled_from(["a", "b"]), st.just("f"))
    | st.builds(ToolDelta, _blocks, _words)
    | st.builds(Began, st.just("m"), st.just("x"))
    | st.builds(Used, st.just(Usage(1, 2)))
    | st.builds(Stopped, st.sampled_from(list(Stop)))
)


def check_order(events):
    """What every stream holds to, whatever was fed."""
    assert [event["type"] for event in events].count("message_start") == 1
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert [event["type"] for event in events].count("message_delta") == 1
    inner = events[1:-2]
    runs = [(index, list(run)) for index, run in groupby(inner, key=lambda event: event["index"])]
    assert [index for index, _ in runs] == list(range(len(runs)))
    fits = {
        "text": {"text_delta"},
        "thinking": {"thinking_delta", "signature_delta"},
        "redacted_thinking": set(),
        "tool_use": {"input_json_delta"},
    }
    for _, (begun, *pieces, ended) in runs:
        assert (begun["type"], ended["type"]) == ("content_block_start", "content_block_stop")
        assert {piece["type"] for piece in pieces} <= {"content_block_delta"}
        assert {piece["delta"]["type"] for piece in pieces} <= fits[begun["content_block"]["type"]]


@given(st.lists(_any_delta, max_size=25))
def test_any_deltas_make_a_stream_in_order(deltas):
    events, end = write(deltas)
    check_order([*events, *end])


def _pieces(text):
    return st.lists(st.integers(0, len(text)), max_size=3).map(
        lambda cuts: [text[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True)]
    )


_arguments = st.sampled_from(['{"a": {"b": "}"}}', "{}", '{"x": 1}', '{"long": "' + "y" * 40 + '"}'])
_spoken = st.tuples(st.sampled_from(["text", "thought"]), st.sampled_from(["Hello there", "ja", "}"]).flatmap(_pieces))
_called = st.lists(_arguments.flatmap(_pieces), min_size=1, max_size=3)


@st.composite
def _told(draw):
    """A stream as formats that interleave tool calls give it, and the content that it stands for."""
    deltas, content, block = [Began("m", "x", Usage(1))], [], 0
    for group in draw(st.lists(_spoken | _called, max_size=4)):
        if isinstance(group, tuple):
            kind, pieces = group
            for piece in pieces:
                deltas.append(TextDelta(block, piece) if kind == "text" else ThinkingDelta(block, piece))
            content.append((kind, "".join(pieces)))
            block += 1
            continue
        calls = {block + n: list(pieces) for n, pieces in enumerate(group)}
        begun = list(calls)
        deltas.append(ToolBegan(begun.pop(0), str(block), "f"))
        while begun or any(calls.values()):
            ready = [n for n, pieces in calls.items() if pieces and n not in begun]
            choice = draw(st.sampled_from([*ready, *begun[:1]]))
            if choice in begun:
                deltas.append(ToolBegan(begun.pop(0), str(choice), "f"))
            else:
                deltas.append(ToolDelta(choice, calls[choice].pop(0)))
        content += [("call", "".join(pieces)) for pieces in group]
        block += len(group)
    return [*deltas, Stopped(Stop.END)], content


@given(_told())
def test_nothing_is_lost_or_put_elsewhere_when_calls_are_put_in_a_row(told):
    deltas, content = told
    events, end = write(deltas)
    check_order([*events, *end])
    found = content_of(events)
    kinds = {"text": "text", "thinking": "thought", "tool_use": "call"}
    assert [(kinds[b["type"]], b.get("text") or b.get("thinking") or b.get("json")) for b in found] == content


@given(_told())
def test_the_official_client_puts_the_same_together(told):
    deltas, content = told
    events, end = write(deltas)
    snapshot, buffers = None, {}
    for event in [*events, *end]:
        official = _officially.validate_json(orjson.dumps(event))
        snapshot = accumulate_event(event=official, current_snapshot=snapshot, json_bufs=buffers)
    assert [block.type for block in snapshot.content] == [block["type"] for block in content_of(events)]
    calls = [block.input for block in snapshot.content if block.type == "tool_use"]
    assert calls == [orjson.loads(text) for kind, text in content if kind == "call"]
    assert (snapshot.usage.input_tokens, snapshot.usage.output_tokens) == (12, 34)
    assert snapshot.stop_reason == ("tool_use" if calls else "end_turn")
