"""Whole answers, in the shapes that Google documents: read, and written for a client."""

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.dialogue import Media, Refusal, Said, Stop, Text, Thinking, ToolCall
from backstay.gateway.errors import ProviderFailed
from backstay.gateway.models import Usage
from backstay.gateway.wire.gemini import Gemini, seal
from unit.gateway.wire.gemini_answers import JSON, NAMES

gemini = Gemini()


def answer(*parts, reason="STOP", **more):
    candidate = {"content": {"parts": list(parts), "role": "model"}, "finishReason": reason, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", "responseId": "r1", **more}


def test_a_text_with_its_thoughts_and_usage():
    said = gemini.read_answer(
        answer(
            {"text": "Let me count.", "thought": True},
            {"text": "Three.", "thoughtSignature": "c2ln"},
            usageMetadata={
                "promptTokenCount": 11,
                "candidatesTokenCount": 4,
                "thoughtsTokenCount": 20,
                "totalTokenCount": 35,
                "cachedContentTokenCount": 6,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 8},
                    {"modality": "AUDIO", "tokenCount": 3},
                ],
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 2}],
            },
        )
    )
    assert (said.id, said.model, said.stop) == ("r1", "gemini-3-flash", Stop.END)
    assert said.parts == (
        Thinking("Let me count.", origin="gemini"),
        Text("Three."),
        Thinking("", "c2ln", origin="gemini"),
    )
    assert said.usage == Usage(11, 24, 6, 20, input_audio_tokens=3, output_audio_tokens=2)


def test_parallel_calls_wait_for_their_results():
    said = gemini.read_answer(
        answer(
            {"functionCall": {"name": "weather", "args": {"city": "Ulm"}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "weather", "args": {"city": "Rom"}}},
            {"functionCall": {"name": "now", "id": "own"}},
        )
    )
    first, second, third = said.parts
    assert said.stop is Stop.TOOL
    assert (first.name, first.arguments, first.signature) == ("weather", '{"city":"Ulm"}', "c2ln")
    assert (second.arguments, second.signature) == ('{"city":"Rom"}', None)
    assert third == ToolCall("own", "now", "{}")
    assert first.id != second.id
    assert first.id.startswith("call_")


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", Stop.END),
        ("MAX_TOKENS", Stop.LENGTH),
        ("SAFETY", Stop.REFUSAL),
        ("RECITATION", Stop.REFUSAL),
        ("BLOCKLIST", Stop.REFUSAL),
        ("PROHIBITED_CONTENT", Stop.REFUSAL),
        ("SPII", Stop.REFUSAL),
        ("IMAGE_SAFETY", Stop.REFUSAL),
        ("OTHER", Stop.REFUSAL),
        ("A_REASON_OF_NEXT_YEAR", Stop.END),
        ("FINISH_REASON_UNSPECIFIED", None),
        (None, None),
    ],
)
def test_reasons_to_stop(reason, stop):
    assert gemini.read_answer(answer({"text": "so"}, reason=reason)).stop is stop


def test_a_call_that_was_cut_off_is_no_reason_to_run_it():
    assert gemini.read_answer(answer({"functionCall": {"name": "f"}}, reason="MAX_TOKENS")).stop is Stop.LENGTH


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"])
def test_an_answer_that_the_model_gave_up_is_a_failure_and_no_empty_success(reason):
    body = {"candidates": [{"finishReason": reason, "finishMessage": "call: print(x)", "index": 0}]}
    with pytest.raises(ProviderFailed, match=rf"{reason}\): call: print\(x\)"):
        gemini.read_answer(body)


def test_a_blocked_prompt_is_a_refusal():
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8}}
    said = gemini.read_answer(body)
    assert (said.stop, said.parts, said.usage) == (Stop.REFUSAL, (), Usage(8))
    body["promptFeedback"]["blockReasonMessage"] = "not here"
    assert gemini.read_answer(body).parts == (Refusal("not here"),)


def test_a_refused_answer_passes_the_providers_reason_on():
    body = {"candidates": [{"finishReason": "SAFETY", "finishMessage": "unsafe"}]}
    said = gemini.read_answer(body)
    assert (said.stop, said.parts) == (Stop.REFUSAL, (Refusal("unsafe"),))


@pytest.mark.parametrize("body", [{}, {"candidates": []}, {"candidates": "x"}, {"candidates": [7]}])
def test_an_answer_without_a_candidate_is_a_failure(body):
    with pytest.raises(ProviderFailed):
        gemini.read_answer(body)


@pytest.mark.parametrize(
    ("meta", "usage"),
    [
        (None, None),
        ({}, None),
        ({"promptTokenCount": -1, "candidatesTokenCount": True}, Usage()),
        ({"promptTokenCount": 0}, Usage()),
        ({"candidatesTokenCount": 3}, Usage(0, 3)),
        ({"promptTokenCount": 5, "toolUsePromptTokenCount": 7, "candidatesTokenCount": 1}, Usage(12, 1)),
        ({"promptTokenCount": 5, "totalTokenCount": 9, "thoughtsTokenCount": 3}, Usage(5, 4, 0, 3)),
        ({"promptTokenCount": 5, "totalTokenCount": 5, "cachedContentTokenCount": 99}, Usage(5, 0, 5)),
    ],
)
def test_usage_is_counted_as_google_counts_it(meta, usage):
    assert gemini.usage_of({"usageMetadata": meta} if meta is not None else {}) == usage


@pytest.mark.parametrize(("model", "searches"), [("gemini-3-flash", 2), ("gemini-2.5-pro", 1), (None, 2)])
def test_searches_of_the_web_are_counted_as_google_bills_them(model, searches):
    grounding = {"webSearchQueries": ["a", "", "b", "a", 7]}
    meta = {"promptTokenCount": 1, "candidatesTokenCount": 1}
    body = {"candidates": [{"groundingMetadata": grounding}], "usageMetadata": meta, "modelVersion": model}
    assert gemini.usage_of(body) == Usage(1, 1, web_searches=searches)
    body["candidates"] = [{"groundingMetadata": {"webSearchQueries": odd}} for odd in (None, 7, [""])] + [7]
    assert gemini.usage_of(body) == Usage(1, 1)


def test_an_answer_is_written_as_google_writes_it():
    said = Said(
        "r1",
        "claude",
        (
            Thinking("hm", "opaque", origin="anthropic"),
            Thinking("", "hidden", redacted=True, origin="anthropic"),
            Thinking("loud"),
            Text("see"),
            Media("image", "image/png", data="AAAA"),
            ToolCall("c1", "f", '{"a":1}'),
        ),
        Stop.TOOL,
        Usage(11, 24, 6, 20, input_audio_tokens=3, output_audio_tokens=2),
    )
    assert gemini.write_answer(said) == {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "hm", "thought": True, "thoughtSignature": seal("opaque", "anthropic", False)},
                        {"text": "", "thought": True, "thoughtSignature": seal("hidden", "anthropic", True)},
                        {"text": "loud", "thought": True},
                        {"text": "see"},
                        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                        {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}},
                    ],
                    "role": "model",
                },
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 11,
            "candidatesTokenCount": 4,
            "totalTokenCount": 35,
            "cachedContentTokenCount": 6,
            "thoughtsTokenCount": 20,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}, {"modality": "AUDIO", "tokenCount": 3}],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 2}, {"modality": "AUDIO", "tokenCount": 2}],
        },
        "modelVersion": "claude",
        "responseId": "r1",
    }


@pytest.mark.parametrize(
    ("stop", "reason"),
    [(Stop.LENGTH, "MAX_TOKENS"), (Stop.TOOL, "MALFORMED_FUNCTION_CALL"), (Stop.END, "MALFORMED_FUNCTION_CALL")],
)
def test_a_call_with_broken_arguments_is_never_given_to_a_client(stop, reason):
    (candidate,) = gemini.write_answer(Said("r", "m", (ToolCall("c", "rm", '{"path":"/'),), stop))["candidates"]
    assert candidate["content"]["parts"] == []
    assert candidate["finishReason"] == reason


_word = st.text(min_size=1, max_size=6)
_parts = st.lists(
    st.builds(Text, _word)
    | st.builds(
        Thinking, _word, st.sampled_from(["c2ln", "b3BhcXVl"]), st.just(False), st.sampled_from(["gemini", "anthropic"])
    )
    | st.builds(
        ToolCall, st.uuids().map(str), _word, st.sampled_from(["{}", '{"a":[1,null]}']), st.none() | st.just("c2ln")
    )
    | st.builds(Media, st.just("image"), st.just("image/png"), data=st.just("AAAA")),
    max_size=5,
)
_usage = st.builds(Usage, st.integers(0, 99), st.integers(50, 99), st.just(0), st.integers(0, 50))


@given(_parts, st.sampled_from([Stop.END, Stop.LENGTH, Stop.REFUSAL]), st.none() | _usage)
def test_what_was_written_is_read_back_as_it_was(parts, stop, usage):
    if stop is Stop.END and any(isinstance(part, ToolCall) for part in parts):
        stop = Stop.TOOL
    said = Said("r", "m", tuple(parts), stop, usage)
    assert gemini.read_answer(orjson.loads(orjson.dumps(gemini.write_answer(said)))) == said


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_any_answer_is_read_or_is_the_providers_failure(body):
    gemini.usage_of(body)
    gemini.error_of(body)
    with contextlib.suppress(ProviderFailed):
        assert gemini.write_answer(gemini.read_answer(body))["candidates"]
