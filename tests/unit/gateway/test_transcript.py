import orjson
import pytest

from backstay.gateway.errors import ProviderFailed
from backstay.gateway.models import Usage
from backstay.gateway.transcript import Transcript


def chunk(delta=None, finish=None, **more):
    return orjson.dumps({"id": "c1", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more})


def test_bytes_that_need_no_change_pass_as_they_came():
    odd = b'{ "id":"c1",  "choices":[{"index":0,"delta":{"content":"\\u00e9","new_field":1.50}}], "x": 1E5 }'
    assert Transcript(False).feed(odd).data == odd


def test_empty_usage_is_taken_out_without_touching_the_rest():
    odd = b'{"id":"c1","choices":[{"index":0,"delta":{"content":"say \\"usage\\":null"}}], "usage" : null,"x":1.50}'
    shown = Transcript(False).feed(odd)
    assert shown.data == b'{"id":"c1","choices":[{"index":0,"delta":{"content":"say \\"usage\\":null"}}],"x":1.50}'
    assert "usage" not in shown.body
    assert Transcript(True).feed(odd).data == odd


def test_the_usage_chunk_goes_only_to_those_who_asked():
    last = b'{"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    for asked in (True, False):
        talk = Transcript(asked)
        assert (talk.feed(last) is not None) is asked
        assert talk.usage == Usage(3, 2)


def test_tool_calls_are_put_together_by_index():
    talk = Transcript(False)
    for call in (
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": '{"x":1}'}},
        {"index": 1, "function": {"arguments": "}"}},
    ):
        talk.feed(chunk({"tool_calls": [call]}))
    calls = talk.completion()["choices"][0]["message"]["tool_calls"]
    assert [(c["id"], c["function"]) for c in calls] == [
        ("a", {"name": "f", "arguments": '{"x":1}'}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]


def test_it_is_finished_when_every_choice_is():
    talk = Transcript(False)
    assert not talk.finished
    talk.feed(orjson.dumps({"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {}}]}))
    talk.feed(chunk(finish="stop"))
    assert not talk.finished
    talk.feed(orjson.dumps({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}))
    assert talk.finished


@pytest.mark.parametrize("odd", [b"{", b"7", b"null", b"[]", b"\xff"])
def test_what_is_no_object_is_counted_and_skipped(odd):
    talk = Transcript(False)
    assert talk.feed(odd) is None
    assert talk.malformed == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": 7},
        {"choices": [7]},
        {"choices": [{"index": "x", "delta": 7}]},
        {"usage": 7},
        {},
        {"choices": [{"delta": {"tool_calls": [7, {"function": 7}]}}]},
        {"usage": {"prompt_tokens": "many"}},
    ],
)
def test_odd_shapes_pass(odd):
    talk = Transcript(True)
    assert talk.feed(orjson.dumps(odd)).body == odd
    assert talk.completion()


def test_an_error_event_is_an_error():
    with pytest.raises(ProviderFailed, match="overloaded"):
        Transcript(False).feed(b'{"error":{"message":"overloaded"}}')
