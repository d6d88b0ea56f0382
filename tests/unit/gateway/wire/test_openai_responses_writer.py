from collections import defaultdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backstay.gateway.dialogue import (
    Began,
    Media,
    Refusal,
    RefusalDelta,
    Request,
    Said,
    Stop,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolCall,
    ToolDelta,
    Used,
)
from backstay.gateway.errors import ProviderFailed, StreamCut
from backstay.gateway.models import Usage
from backstay.gateway.wire.responses import OpenAIResponses
from backstay.kernel.errors import BadRequest, FieldError

wire = OpenAIResponses()
ASKED = Request("anthropic:claude-sonnet-4-5", max_tokens=100, user="u1", metadata={"a": "b"})
BEGAN = Began("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-sonnet-4-5", created=1741290958)
USAGE = Usage(30, 12, 10, 4, 5)
_official = TypeAdapter(ResponseStreamEvent)


def stream(*deltas, usage=USAGE):
    writer = wire.writer(ASKED)
    events = writer.feed([BEGAN])
    for delta in deltas:
        events += writer.feed([delta])
    return events + writer.end(usage)


def types(events):
    return [event["type"].removeprefix("response.") for event in events]


def checked(events):
    """The parts that `events` say, after everything that must hold of any stream was found to hold."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert types(events)[:2] == ["created", "in_progress"]
    assert types(events)[-1] in ("completed", "incomplete")
    for event in events:
        _official.validate_python(event)
    items = {}
    for event in events[2:-1]:
        index = event["output_index"]
        if event["type"] == "response.output_item.added":
            assert index == len(items)
            items[index] = _Item(event["item"])
        else:
            items[index].take(event)
    assert all(item.done for item in items.values())
    ids = [item.id for item in items.values()]
    assert len(set(ids)) == len(ids)
    final = events[-1]["response"]
    assert final["output"] == [items[index].done for index in sorted(items)]
    assert f"response.{final['status']}" == events[-1]["type"]
    assert {event["response"]["id"] for event in (events[0], events[1], events[-1])} == {final["id"]}
    return [said for item in items.values() for said in item.said()]


class _Item:
    """One item followed from `added` to `done`."""

    def __init__(self, added):
        self.id, self.kind, self.done = added["id"], added["type"], None
        self.parts = []
        self.open = None
        assert added.get("content", []) == []
        assert added.get("summary", []) == []
        assert added.get("arguments", "") == ""

    def take(self, event):
        assert self.done is None, "nothing follows the end of an item"
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.done":
            self._end(event["item"])
            return
        assert event["item_id"] == self.id
        if kind.endswith("part.added"):
            assert self.open is None
            self.open = []
            self.parts.append([event["part"]["type"], None])
            assert event.get("content_index", event.get("summary_index")) == len(self.parts) - 1
        elif kind.endswith("part.done"):
            assert self.open is None, "the text is done before its part"
            assert event["part"].get("text", event["part"].get("refusal")) == self.parts[-1][1]
        elif kind.endswith(".delta"):
            if kind == "function_call_arguments.delta" and self.open is None:
                self.open = []
            assert event["delta"]
            self.open.append(event["delta"])
        else:
            words = event.get("text", event.get("refusal", event.get("arguments")))
            assert words == "".join(self.open or [])
            if kind == "function_call_arguments.done":
                self.parts.append(["function_call", words])
            self.parts[-1][1], self.open = words, None

    def _end(self, item):
        assert self.open is None
        assert (item["id"], item["type"]) == (self.id, self.kind)
        self.done = item
        if self.kind == "function_call":
            assert [item["arguments"]] == [words for _, words in self.parts]
        else:
            parts = item["content"] if self.kind == "message" else item["summary"]
            found = [[part["type"], part.get("text", part.get("refusal"))] for part in parts]
            assert found == self.parts

    def said(self):
        if self.kind == "function_call":
            return [("call", self.done["call_id"], self.done["name"], self.done["arguments"])]
        if self.kind == "reasoning":
            return [("thought", "".join(words for _, words in self.parts), self.done.get("encrypted_content"))]
        return [(kind, words) for kind, words in self.parts]


def test_a_text_comes_in_the_official_order():
    events = stream(TextDelta(0, "Hi"), TextDelta(0, " there"), Used(USAGE), Stopped(Stop.END))
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert checked(events) == [("output_text", "Hi there")]


def test_thoughts_text_and_calls_come_in_the_official_order():
    events = stream(
        ThinkingDelta(0, "Hm."),
        ThinkingDelta(0, signature="EqoB", origin="anthropic"),
        TextDelta(1, "Wait."),
        ToolBegan(2, "toolu_1", "weather"),
        ToolDelta(2, '{"in":'),
        ToolDelta(2, '"Rome"}'),
        Stopped(Stop.TOOL),
    )
    assert types(events)[2:-1] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    said = checked(events)
    assert [part[0] for part in said] == ["thought", "output_text", "call"]
    assert said[2] == ("call", "toolu_1", "weather", '{"in":"Rome"}')


def test_the_last_event_has_the_whole_response_and_what_was_billed():
    writer = wire.writer(ASKED)
    before = writer.feed([BEGAN, TextDelta(0, "Hi"), Used(Usage(1, 1)), Stopped(Stop.END)])
    assert "completed" not in types(before)
    (last,) = writer.end(USAGE)
    response = last["response"]
    assert (response["id"], response["model"], response["created_at"]) == (f"resp_{BEGAN.id}", BEGAN.model, 1741290958)
    assert (response["status"], response["error"], response["incomplete_details"]) == ("completed", None, None)
    assert (response["max_output_tokens"], response["user"], response["metadata"]) == (100, "u1", {"a": "b"})
    assert response["usage"] == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 5},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 42,
    }
    assert all(event["response"]["usage"] is None for event in before[:2])


@pytest.mark.parametrize(
    ("stop", "reason"), [(Stop.LENGTH, "max_output_tokens"), (Stop.REFUSAL, "content_filter"), (Stop.SEQUENCE, None)]
)
def test_an_answer_that_was_cut_is_incomplete_and_says_why(stop, reason):
    events = stream(TextDelta(0, "Once"), Stopped(stop))
    checked(events)
    response = events[-1]["response"]
    assert response["incomplete_details"] == ({"reason": reason} if reason else None)
    expected = "incomplete" if reason else "completed"
    assert (response["status"], response["output"][0]["status"]) == (expected, expected)


def test_a_call_that_was_cut_keeps_the_arguments_it_has():
    events = stream(ToolBegan(0, "c1", "add"), ToolDelta(0, '{"a":'), Stopped(Stop.LENGTH))
    assert checked(events) == [("call", "c1", "add", '{"a":')]
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"
    events = stream(ToolBegan(0, "c1", "add"), ToolDelta(0, '{"a":1}'), Stopped(Stop.LENGTH))
    assert events[-1]["response"]["output"][0]["status"] == "completed"


def test_a_call_without_arguments_has_an_empty_object():
    assert checked(stream(ToolBegan(0, "c1", "now"), Stopped(Stop.TOOL))) == [("call", "c1", "now", "{}")]


def test_calls_that_follow_one_another_end_before_the_next_begins():
    events = stream(
        ToolBegan(0, "c1", "add"),
        ToolDelta(0, '{"a":1}'),
        ToolBegan(1, "c2", "add"),
        ToolDelta(1, '{"a":2}'),
        Stopped(Stop.TOOL),
    )
    assert [event["output_index"] for event in events[2:-1]] == [0, 0, 0, 0, 1, 1, 1, 1]
    checked(events)


def test_calls_that_cross_are_kept_apart():
    events = stream(
        ToolBegan(0, "c1", "add"),
        ToolBegan(1, "c2", "add"),
        ToolDelta(1, '{"a":'),
        ToolDelta(0, '{"a":1}'),
        ToolDelta(1, "2}"),
        Stopped(Stop.TOOL),
    )
    assert checked(events) == [("call", "c1", "add", '{"a":1}'), ("call", "c2", "add", '{"a":2}')]


def test_texts_and_refusals_in_a_row_are_parts_of_one_message():
    events = stream(
        TextDelta(0, "a"), TextDelta(1, "b"), RefusalDelta(2, "c"), ToolBegan(3, "c1", "f"), TextDelta(4, "d")
    )
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call", "message"]
    parts = checked(events)
    assert parts == [
        ("output_text", "a"),
        ("output_text", "b"),
        ("refusal", "c"),
        ("call", "c1", "f", "{}"),
        ("output_text", "d"),
    ]


def test_an_answer_of_nothing_still_begins_and_ends():
    writer = wire.writer(ASKED)
    events = writer.end(Usage())
    assert types(events) == ["created", "in_progress", "completed"]
    assert events[-1]["response"]["model"] == ASKED.model
    assert events[-1]["response"]["id"].startswith("resp_")
    checked(events)


def test_empty_deltas_and_other_choices_say_nothing():
    events = stream(TextDelta(0, ""), TextDelta(0, "b", choice=1), ToolBegan(1, "c", "f", choice=1), Stopped(Stop.END))
    assert types(events) == ["created", "in_progress", "completed"]


def test_a_redacted_thought_is_carried_and_not_shown():
    hidden = ThinkingDelta(0, "opaque", redacted=True, origin="anthropic")
    events = stream(hidden, TextDelta(1, "Hi"), Stopped(Stop.END))
    assert b"opaque" not in b"".join(wire.frame(event) for event in events)
    assert events[-1]["response"]["output"][0]["summary"] == []
    item = events[-1]["response"]["output"][0]
    assert wire.read({"model": "m", "input": [item]}).turns[0].parts == (
        Thinking("opaque", None, redacted=True, origin="anthropic"),
    )


def test_a_signature_of_nobody_is_given_to_nobody():
    (item,) = stream(ThinkingDelta(0, "Hm", "EqoB"), Stopped(Stop.END))[-1]["response"]["output"]
    assert "encrypted_content" not in item


def test_a_thought_of_this_format_keeps_its_id_and_its_encrypted_content():
    own = ThinkingDelta(0, "Hm", origin="openai-responses", id="rs_1")
    signed = ThinkingDelta(0, signature="gAAA", origin="openai-responses", id="rs_1")
    (item,) = stream(own, signed, Stopped(Stop.END))[-1]["response"]["output"]
    assert item == {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Hm"}],
        "encrypted_content": "gAAA",
    }


def test_ids_of_items_are_such_that_openai_takes_them_back():
    writer = wire.writer(ASKED)
    events = writer.feed([Began("chatcmpl/" + "ä" * 200, "m"), TextDelta(0, "a"), ToolBegan(1, "c", "f")])
    for event in events:
        if event["type"] == "response.output_item.added":
            id = event["item"]["id"]
            assert id.isascii()
            assert len(id) <= 64
            assert id.replace("_", "").isalnum()


def test_events_are_framed_with_their_type():
    event = stream()[0]
    assert wire.frame(event).startswith(b'event: response.created\ndata: {"type":"response.created"')
    assert wire.frame(event).endswith(b"}\n\n")
    assert wire.ping() == b": ping\n\n"


def test_an_error_is_flat_and_nested_and_comes_after_everything():
    error = StreamCut("the answer was cut off")
    frame = wire.error_event(error, USAGE)
    head, _, data = frame.partition(b"\ndata: ")
    event = orjson.loads(data)
    assert head == b"event: error"
    _official.validate_python(event)
    assert (event["code"], event["message"], event["param"]) == ("stream_cut", "the answer was cut off", None)
    assert event["error"]["message"] == "the answer was cut off"
    assert event["error"]["usage"]["output_tokens"] == 12
    assert event["sequence_number"] > stream(*[TextDelta(0, "a")] * 50)[-1]["sequence_number"]
    named = BadRequest("`input` is wrong", errors=[FieldError("input", "must be a text")])
    event = orjson.loads(wire.error_event(named).partition(b"\ndata: ")[2])
    assert (event["param"], event["error"]["type"]) == ("input", "invalid_request_error")
    with pytest.raises(ProviderFailed, match="cut off"):
        wire.reader().feed(data)


# Streams as dialogue.py allows them: one block after the other, tool calls crossing.
_piece = st.text(max_size=6)
_signature = st.none() | st.text(min_size=1, max_size=6)


@st.composite
def _streams(draw):
    deltas, said = [], []
    block = 0
    for kind in draw(st.lists(st.sampled_from(["text", "refusal", "thought", "calls"]), max_size=5)):
        if kind == "calls":
            calls = [(block + place, draw(st.lists(_piece, max_size=3))) for place in range(draw(st.integers(1, 3)))]
            steps = [ToolBegan(number, f"c{number}", "f") for number, _ in calls]
            waiting = [(number, ToolDelta(number, piece)) for number, pieces in calls for piece in pieces]
            if draw(st.booleans()):
                waiting.sort(key=lambda pair: draw(st.integers(0, 3)))
                deltas += steps + [delta for _, delta in waiting]
            else:
                deltas += [d for step in steps for d in (step, *[w for n, w in waiting if n == step.block])]
            texts = defaultdict(str)
            for number, delta in waiting:
                texts[number] += delta.arguments
            said += [("call", f"c{number}", "f", texts[number]) for number, _ in calls]
            block += len(calls)
            continue
        pieces = draw(st.lists(_piece, min_size=1, max_size=3))
        if kind == "thought":
            signature = draw(_signature)
            deltas += [ThinkingDelta(block, piece) for piece in pieces]
            deltas.append(ThinkingDelta(block, "", signature, origin="openai-responses"))
            said.append(("thought", "".join(pieces), signature))
        else:
            make = TextDelta if kind == "text" else RefusalDelta
            deltas += [make(block, piece) for piece in pieces]
            if "".join(pieces):
                said.append(("output_text" if kind == "text" else "refusal", "".join(pieces)))
        block += 1
    stop = draw(st.sampled_from(Stop) | st.none())
    return [*deltas, *([Stopped(stop)] if stop else [])], said, stop


def _alike(found, said, stop):
    """A call that was whole took nothing more; one that had no arguments has an empty object when it was not cut."""
    assert len(found) == len(said)
    for one, other in zip(found, said, strict=True):
        if one[0] == "call" and one != other:
            assert one[:3] == other[:3]
            if not other[3]:
                assert one[3] == "{}"
                continue
            assert other[3].startswith(one[3])
            assert isinstance(orjson.loads(one[3]), dict)
        else:
            assert one == other


@given(_streams())
def test_whatever_is_streamed_holds_together_and_loses_nothing(drawn):
    deltas, said, stop = drawn
    events = stream(*deltas)
    _alike(checked(events), said, stop)
    Response.model_validate(events[-1]["response"])
    at_once = wire.writer(ASKED)
    assert types(at_once.feed([BEGAN, *deltas]) + at_once.end(USAGE)) == types(events)


@given(_streams())
def test_what_is_written_to_a_stream_is_read_from_it_again(drawn):
    deltas, _, _ = drawn
    events = stream(*deltas)
    said = checked(events)
    reader, found, calls = wire.reader(), {}, {}
    stops = []
    for event in events:
        for delta in reader.feed(wire.frame(event).partition(b"\ndata: ")[2]):
            if isinstance(delta, TextDelta | RefusalDelta):
                kind = "output_text" if isinstance(delta, TextDelta) else "refusal"
                found[delta.block] = (kind, found.get(delta.block, (kind, ""))[1] + delta.text)
            elif isinstance(delta, ThinkingDelta):
                kind, text, signature = found.get(delta.block, ("thought", "", None))
                found[delta.block] = (kind, text + delta.text, delta.signature or signature)
            elif isinstance(delta, ToolBegan):
                found[delta.block] = calls[delta.block] = ("call", delta.id, delta.name, "")
            elif isinstance(delta, ToolDelta):
                *head, arguments = found[delta.block]
                found[delta.block] = (*head, arguments + delta.arguments)
            elif isinstance(delta, Stopped):
                stops.append(delta.stop)
    # A thought that says and carries nothing makes no block.
    assert sorted(found.values(), key=repr) == sorted((part for part in said if part[1:] != ("", None)), key=repr)
    assert len(stops) == 1
    assert reader.done
    assert reader.malformed == 0


_any_delta = st.one_of(
    st.builds(TextDelta, st.integers(0, 3), _piece, st.integers(0, 1)),
    st.builds(RefusalDelta, st.integers(0, 3), _piece),
    st.builds(
        ThinkingDelta, st.integers(0, 3), _piece, _signature, st.booleans(), st.sampled_from([None, "anthropic"])
    ),
    st.builds(ToolBegan, st.integers(0, 3), _piece, _piece, _signature),
    st.builds(ToolDelta, st.integers(0, 3), _piece | st.just("{}")),
    st.builds(Used, st.just(USAGE)),
    st.builds(Stopped, st.sampled_from(Stop)),
    st.just(BEGAN),
)


@given(st.lists(_any_delta, max_size=12))
def test_even_a_stream_in_disorder_makes_events_in_order(deltas):
    writer = wire.writer(ASKED)
    checked([event for delta in deltas for event in writer.feed([delta])] + writer.end(USAGE))


def test_a_whole_answer_has_every_field_that_the_official_client_requires():
    said = Said(
        "msg_1",
        "claude-sonnet-4-5",
        (Thinking("Hm.", "EqoB", origin="anthropic"), Text("Hi"), Refusal("No."), ToolCall("c1", "add", '{"a":1}')),
        Stop.TOOL,
        USAGE,
        created=1741290958,
    )
    body = wire.write_answer(said)
    response = Response.model_validate(body)
    assert (response.id, response.model, response.status) == ("resp_msg_1", "claude-sonnet-4-5", "completed")
    assert response.output_text == "Hi"
    assert response.usage.total_tokens == 42
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    beyond = {"store", "presence_penalty", "frequency_penalty"}  # Open Responses asks for the last two
    assert Response.model_fields.keys() >= body.keys() - beyond
    assert wire.write_answer(Said("1", "m", (), None))["usage"] is None


_parts = st.lists(
    st.one_of(
        st.builds(Text, st.text(min_size=1, max_size=5)),
        st.builds(Refusal, st.text(min_size=1, max_size=5)),
        st.builds(
            Thinking,
            st.text(max_size=5),
            st.text(min_size=1, max_size=5),
            origin=st.just("openai-responses"),
            id=st.just("rs_1"),
        ),
        st.builds(ToolCall, st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5), st.just('{"a":1}')),
    ),
    max_size=5,
).map(tuple)


@given(_parts, st.sampled_from(Stop), st.none() | st.just(USAGE))
def test_a_whole_answer_is_read_as_it_was_written(parts, stop, usage):
    called = any(isinstance(part, ToolCall) for part in parts)
    said = Said("resp_1", "m", parts, stop, usage, created=7)
    found = wire.read_answer(orjson.loads(orjson.dumps(wire.write_answer(said))))
    # What ends well is told apart only by the calls in it.
    kept = stop in (Stop.LENGTH, Stop.REFUSAL)
    assert found == Said("resp_1", "m", parts, stop if kept else Stop.TOOL if called else Stop.END, usage, created=7)


def test_what_an_answer_cannot_say_is_told_of():
    sound = Media("audio", "audio/wav", "AA")
    [message] = wire.write_answer(Said("1", "m", (sound, Text("Hi")), Stop.END))["output"]
    assert [part["text"] for part in message["content"]] == [sound.note, "Hi"]


def test_an_answer_that_is_under_way_has_not_stopped():
    assert wire.read_answer({"id": "resp_1", "status": "queued", "output": []}).stop is None


@pytest.mark.parametrize("body", [{}, {"output": None}, {"output": {}}])
def test_an_answer_without_output_is_the_provider_s_failure(body):
    with pytest.raises(ProviderFailed):
        wire.read_answer(body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_items = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "reasoning", "function_call", "custom_tool_call"]) | _json},
    optional=dict.fromkeys(["content", "summary", "encrypted_content", "call_id", "name", "arguments", "input"], _json),
)


@given(
    st.fixed_dictionaries(
        {"output": st.lists(_items | _json, max_size=3)},
        optional=dict.fromkeys(["id", "model", "status", "incomplete_details", "usage", "created_at", "error"], _json),
    )
)
def test_whatever_a_provider_answers_is_understood(body):
    said = wire.read_answer(body)
    assert isinstance(wire.error_of(body), str | None)
    Response.model_validate(wire.write_answer(said))


@pytest.mark.parametrize("usage", [None, 7, {}, {"input_tokens": -1}, {"input_tokens": True}, {"output_tokens": "9"}])
def test_usage_that_says_nothing_counts_nothing(usage):
    found = wire.usage_of({"usage": usage})
    assert found is None or found == Usage()


def test_details_of_usage_never_exceed_the_whole():
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 99},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 99},
    }
    assert wire.usage_of({"usage": usage}) == Usage(10, 5, 8, 5, 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "Overloaded."}}, "Overloaded."),
        ({"error": "Overloaded."}, "Overloaded."),
        ({"error": {"code": 7}}, "the provider reported an error without a message"),
        ({"type": "error", "message": "Overloaded.", "code": None}, "Overloaded."),
        ({"status": "failed", "error": {"code": "server_error", "message": "Overloaded."}}, "Overloaded."),
        ({"status": "cancelled", "error": None}, "the answer is cancelled, and nothing is said about why"),
        ({"status": "completed", "error": None}, None),
        ([], None),
        (None, None),
    ],
)
def test_an_error_inside_an_answer_is_found(body, message):
    assert wire.error_of(body) == message
