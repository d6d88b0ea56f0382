"""Streams: what a provider's events say, what a client's events say."""

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.dialogue import (
    OUTPUT,
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
from backstay.gateway.wire.gemini import ArrayFraming, Gemini
from backstay.kernel.errors import Unavailable
from unit.gateway.wire.gemini_answers import JSON, NAMES

gemini = Gemini()
ASKED = Request("m", stream=True)


def chunk(*parts, reason=None, index=0, **more):
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", "responseId": "r1", **more}


def follow(*events, reader=None):
    reader = reader or gemini.reader()
    return [delta for event in events for delta in reader.feed(orjson.dumps(event))]


def test_a_stream_of_thoughts_and_text():
    usage = {"promptTokenCount": 8, "totalTokenCount": 8}
    found = follow(
        chunk({"text": "Let me", "thought": True}, usageMetadata=usage),
        chunk({"text": " count.", "thought": True}),
        chunk({"text": "One, "}),
        chunk({"text": "two."}),
        chunk({"text": ""}, reason="STOP", usageMetadata=usage | {"candidatesTokenCount": 4, "thoughtsTokenCount": 5}),
    )
    assert found == [
        Began("r1", "gemini-3-flash", Usage(8)),
        Used(Usage(8)),
        ThinkingDelta(0, "Let me", origin="gemini"),
        ThinkingDelta(0, " count.", origin="gemini"),
        TextDelta(1, "One, "),
        TextDelta(1, "two."),
        Used(Usage(8, 9, 0, 5)),
        Stopped(Stop.END),
    ]


def test_parallel_calls_come_whole_and_signed():
    first = {"functionCall": {"name": "weather", "args": {"city": "Ulm"}, "id": "a"}, "thoughtSignature": "c2ln"}
    second = {"functionCall": {"name": "weather", "args": {"city": "Rom"}}}
    _, *found = follow(chunk(first, second), chunk({"text": ""}, reason="STOP"))
    made = found[2].id
    assert found == [
        ToolBegan(0, "a", "weather", "c2ln"),
        ToolDelta(0, '{"city":"Ulm"}'),
        ToolBegan(1, made, "weather"),
        ToolDelta(1, '{"city":"Rom"}'),
        Stopped(Stop.TOOL),
    ]
    assert made.startswith("call_")


def test_a_signature_of_a_text_follows_it():
    _, *found = follow(chunk({"text": "Ulm"}), chunk({"text": "", "thoughtSignature": "c2ln"}), chunk({"text": "!"}))
    assert found == [TextDelta(0, "Ulm"), ThinkingDelta(1, "", "c2ln", origin="gemini"), TextDelta(2, "!")]
    _, *found = follow(chunk({"text": "Ulm", "thoughtSignature": "c2ln"}))
    assert found == [TextDelta(0, "Ulm"), ThinkingDelta(1, "", "c2ln", origin="gemini")]
    _, *found = follow(
        chunk({"text": "a", "thought": True}), chunk({"text": "b", "thought": True, "thoughtSignature": "c2ln"})
    )
    assert found == [ThinkingDelta(0, "a", origin="gemini"), ThinkingDelta(0, "b", "c2ln", origin="gemini")]


def test_a_signed_thought_is_whole_and_the_next_one_is_another():
    signed = {"text": "a", "thought": True, "thoughtSignature": "c2ln"}
    _, *found = follow(chunk(signed), chunk({"text": "b", "thought": True}))
    assert found == [ThinkingDelta(0, "a", "c2ln", origin="gemini"), ThinkingDelta(1, "b", origin="gemini")]


def test_the_event_with_the_last_reason_and_all_after_it_wait_for_the_settlement():
    reader = gemini.reader()
    late = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}, "responseId": "r1"}
    seen = []
    for event in (chunk({"text": "so"}), chunk({"text": "."}, reason="STOP"), late):
        seen.append((follow(event, reader=reader)[-1], reader.final, reader.done))
    assert seen == [
        (TextDelta(0, "so"), False, False),
        (Stopped(Stop.END), True, False),
        (Used(Usage(3, 2)), True, False),
    ]


def test_several_answers_are_followed_apart_and_end_with_the_last_of_them():
    reader = gemini.reader()
    _, *found = follow(chunk({"text": "a"}), chunk({"text": "b"}, index=1), chunk(reason="STOP"), reader=reader)
    assert found == [TextDelta(0, "a"), TextDelta(0, "b", 1), Stopped(Stop.END)]
    assert not reader.final
    assert follow(chunk(reason="MAX_TOKENS", index=1), reader=reader) == [Stopped(Stop.LENGTH, None, 1)]
    assert reader.final


def test_a_blocked_prompt_ends_the_stream_as_a_refusal():
    reader = gemini.reader()
    _, *found = follow({"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "no"}}, reader=reader)
    assert found == [RefusalDelta(0, "no"), Stopped(Stop.REFUSAL)]
    assert reader.final


def test_an_answer_stopped_for_safety_says_why():
    candidate = {"finishReason": "SAFETY", "finishMessage": "unsafe", "index": 0}
    _, *found = follow(chunk({"text": "Take a"}), {"candidates": [candidate]})
    assert found == [TextDelta(0, "Take a"), RefusalDelta(1, "unsafe"), Stopped(Stop.REFUSAL)]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, "overloaded"),
        (chunk(reason="MALFORMED_FUNCTION_CALL"), "MALFORMED_FUNCTION_CALL"),
    ],
)
def test_an_error_in_the_middle_is_raised_and_its_event_kept(event, message):
    reader = gemini.reader()
    follow(chunk({"text": "so"}), reader=reader)
    with pytest.raises(ProviderFailed, match=message):
        reader.feed(orjson.dumps(event | {"usageMetadata": {"promptTokenCount": 4}}))
    assert gemini.usage_of(reader.body) == Usage(4)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"7", b"null", b'{"a":' * 2000, b"\xff"])
def test_a_malformed_event_is_skipped_and_counted(data):
    reader = gemini.reader()
    assert reader.feed(data) == ()
    assert reader.malformed == 1
    assert gemini.relay(reader, data, ASKED) is None
    assert follow(chunk({"text": "so"}), reader=reader)[-1] == TextDelta(0, "so")


def test_a_program_breaks_the_silence_though_no_delta_can_carry_it():
    _, *found = follow(chunk({"executableCode": {"language": "PYTHON", "code": "1"}}))
    assert found == [TextDelta(0, "")]
    assert isinstance(found[0], OUTPUT)


def test_an_event_is_relayed_as_it_came():
    reader = gemini.reader()
    data = orjson.dumps(chunk({"text": "so"}, groundingMetadata={"new": [1]}))
    reader.feed(data)
    assert gemini.relay(reader, data, ASKED) == b"data: " + data + b"\n\n"
    pretty = orjson.dumps(chunk({"text": "a\nb"}), option=orjson.OPT_INDENT_2)
    reader.feed(pretty)
    framed = gemini.relay(reader, pretty, ASKED)
    assert framed.count(b"\n") == 2
    assert orjson.loads(framed.removeprefix(b"data: ")) == orjson.loads(pretty)


def test_a_foreign_stream_is_written_as_googles():
    writer = gemini.writer(ASKED)
    head = {"modelVersion": "claude", "responseId": "msg_1"}

    def event(*parts, index=0):
        return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, "index": index}], **head}

    assert writer.feed([Began("msg_1", "claude", Usage(3))]) == []
    assert writer.feed([ThinkingDelta(0, "hm"), TextDelta(1, "so"), TextDelta(1, "")]) == [
        event({"text": "hm", "thought": True}),
        event({"text": "so"}),
    ]
    assert writer.feed([ToolBegan(2, "a", "f"), ToolBegan(3, "b", "g", "c2ln"), ToolDelta(3, "{}")]) == []
    assert writer.feed([ToolDelta(2, '{"x":'), ToolDelta(2, "1}"), Used(Usage(3, 9)), Stopped(Stop.TOOL)]) == [
        event({"functionCall": {"id": "a", "name": "f", "args": {"x": 1}}}),
        event({"functionCall": {"id": "b", "name": "g", "args": {}}, "thoughtSignature": "c2ln"}),
    ]
    assert writer.end(Usage(3, 9, 0, 2)) == [
        {
            "candidates": [{"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {
                "promptTokenCount": 3,
                "candidatesTokenCount": 7,
                "totalTokenCount": 12,
                "thoughtsTokenCount": 2,
            },
            **head,
        }
    ]


def test_what_one_answer_says_does_not_cut_a_call_of_another():
    writer = gemini.writer(ASKED)
    writer.feed([ToolBegan(0, "a", "f", choice=0), ToolDelta(0, '{"x":', 0)])
    (said,) = writer.feed([TextDelta(0, "so", 1)])
    assert said["candidates"][0]["index"] == 1
    (called,) = writer.feed([ToolDelta(0, "1}", 0), Stopped(Stop.TOOL, None, 0)])
    assert called["candidates"][0]["content"]["parts"][0]["functionCall"]["args"] == {"x": 1}


@pytest.mark.parametrize(("stop", "reason"), [(Stop.LENGTH, "MAX_TOKENS"), (Stop.TOOL, "MALFORMED_FUNCTION_CALL")])
def test_a_call_whose_arguments_broke_off_is_left_out(stop, reason):
    writer = gemini.writer(ASKED)
    assert writer.feed([ToolBegan(0, "a", "rm"), ToolDelta(0, '{"path":"/'), Stopped(stop)]) == []
    (last,) = writer.end(Usage())
    assert last["candidates"][0]["finishReason"] == reason


_text = st.text(min_size=1, max_size=5)


@st.composite
def _streams(draw):
    """A stream as a Reader of any format may give it: blocks in order, calls interleaved, several choices."""
    deltas = [Began("r", "m")] if draw(st.booleans()) else []
    for choice in range(draw(st.integers(1, 2))):
        block = -1
        for kind in draw(st.lists(st.sampled_from(["text", "thought", "refusal", "tools"]), max_size=4)):
            block += 1
            if kind == "tools":
                calls = range(block, block + draw(st.integers(1, 3)))
                block = calls[-1]
                deltas += [ToolBegan(number, f"{choice}-{number}", "f", None, choice) for number in calls]
                for piece in draw(st.sampled_from([['{"a"', ":1}"], ["{}"], []])):
                    # The pieces of all calls in turn, as formats that interleave them send them.
                    deltas += [ToolDelta(number, piece, choice) for number in draw(st.permutations(calls))]
            else:
                make = {"text": TextDelta, "thought": ThinkingDelta, "refusal": RefusalDelta}[kind]
                deltas += [make(block, piece, choice=choice) for piece in draw(st.lists(_text, min_size=1, max_size=2))]
        deltas.append(
            Stopped(draw(st.sampled_from([Stop.END, Stop.LENGTH, Stop.REFUSAL, Stop.SEQUENCE])), None, choice)
        )
    deltas.append(Used(Usage(1, 2)))
    cuts = draw(st.lists(st.integers(0, len(deltas)), max_size=4).map(sorted))
    return [deltas[start:end] for start, end in zip([0, *cuts], [*cuts, len(deltas)], strict=True)]


@given(_streams())
def test_whatever_a_stream_says_reaches_the_client_once_and_its_end_comes_last(groups):
    writer = gemini.writer(ASKED)
    events = [event for group in groups for event in writer.feed(group)]
    ending = writer.end(Usage(1, 2))
    assert not any("finishReason" in candidate for event in events for candidate in event["candidates"])
    assert not any("usageMetadata" in event for event in events)
    *rest, last = ending
    assert rest == []
    assert all(candidate["finishReason"] for candidate in last["candidates"])
    assert gemini.usage_of(last) == Usage(1, 2)

    # The client's own parser and reader get back what was said.
    parser = SseParser()
    data = list(parser.feed(gemini.ping().join(gemini.frame(event) for event in [*events, last])))
    assert [orjson.loads(each) for each in data] == [*events, last]
    reader = gemini.reader()
    told = [delta for each in data for delta in reader.feed(each)]
    assert reader.final
    given_ = [delta for group in groups for delta in group]
    for choice in (0, 1):
        for kinds, field in (((TextDelta, RefusalDelta), "text"), ((ThinkingDelta,), "text")):
            said, heard = (
                "".join(
                    getattr(delta, field) for delta in deltas if isinstance(delta, kinds) and delta.choice == choice
                )
                for deltas in (given_, told)
            )
            assert said == heard
        assert _calls(given_, choice) == _calls(told, choice)
        reasons = [
            [delta.stop for delta in deltas if isinstance(delta, Stopped) and delta.choice == choice]
            for deltas in (given_, told)
        ]
        assert len(reasons[0]) == len(reasons[1])
        if _calls(given_, choice) and reasons[0] in ([Stop.END], [Stop.SEQUENCE]):
            assert reasons[1] == [Stop.TOOL]


def _calls(deltas, choice):
    calls = {}
    for delta in deltas:
        if isinstance(delta, ToolBegan) and delta.choice == choice:
            calls[delta.block] = [delta.id, delta.name, ""]
        elif isinstance(delta, ToolDelta) and delta.choice == choice:
            calls[delta.block][2] += delta.arguments
    return [(id, name, args or "{}") for id, name, args in calls.values()]


@given(_streams(), st.booleans())
def test_a_stream_as_an_array_is_json_with_the_same_events(groups, broken):
    writer, framing = gemini.writer(ASKED), ArrayFraming()
    events = [event for group in groups for event in writer.feed(group)]
    sent = framing.add(gemini.ping())
    for event in events:
        sent += framing.add(gemini.frame(event)) + framing.add(gemini.ping())
    if broken:
        sent += framing.add(gemini.error_event(Unavailable("gone")))
    else:
        ending = writer.end(Usage())
        sent += framing.add(b"".join(gemini.frame(event) for event in ending))
        events += ending
    found = orjson.loads(sent + framing.end())
    assert found[: len(events)] == events
    assert [gemini.error_of(each) for each in found[len(events) :]] == (["gone"] if broken else [])


def test_an_array_without_events_is_empty():
    assert ArrayFraming().end() == b"[]"


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4) | JSON, max_size=4))
def test_any_event_is_followed_or_is_the_providers_failure(events):
    reader, writer = gemini.reader(), gemini.writer(ASKED)
    for event in events:
        with contextlib.suppress(ProviderFailed):
            deltas = reader.feed(orjson.dumps(event))
            assert all(delta.block >= 0 for delta in deltas if isinstance(delta, OUTPUT))
            assert all("candidates" in made for made in writer.feed(deltas))


def test_arguments_nested_beyond_measure_are_the_providers_failure():
    args = b'{"a":' * 300 + b"1" + b"}" * 300
    body = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":%b}}]}}]}' % args
    with pytest.raises(ProviderFailed):
        gemini.reader().feed(body)
