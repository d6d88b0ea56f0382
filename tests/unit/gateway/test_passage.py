import orjson
import pytest

from backstay.gateway.dialogue import Request, ToolCall
from backstay.gateway.errors import ProviderFailed
from backstay.gateway.models import Usage
from backstay.gateway.passage import Passage
from backstay.gateway.wire import CHAT


def chunk(delta=None, finish=None, **more):
    return orjson.dumps({"id": "c1", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more})


def passage(include_usage=False, choices=1):
    return Passage(CHAT, CHAT, Request("m", True, include_usage, choices=choices))


def fed(passage, data):
    return passage.feed(b"data: " + data + b"\n\n")


def test_bytes_that_need_no_change_pass_as_they_came():
    odd = b'{ "id":"c1",  "choices":[{"index":0,"delta":{"content":"\\u00e9","new_field":1.50}}], "x": 1E5 }'
    assert [shown.frame for shown in fed(passage(), odd)] == [b"data: " + odd + b"\n\n"]


def test_empty_usage_is_taken_out_without_touching_the_rest():
    odd = b'{"id":"c1","choices":[{"index":0,"delta":{"content":"say \\"usage\\":null"}}],"usage" : null,"x":1.50}'
    [shown] = fed(passage(False), odd)
    kept = b'{"id":"c1","choices":[{"index":0,"delta":{"content":"say \\"usage\\":null"}}],"x":1.50}'
    assert shown.frame == b"data: " + kept + b"\n\n"
    assert "usage" not in shown.body
    assert fed(passage(True), odd)[0].frame == b"data: " + odd + b"\n\n"


def test_the_usage_chunk_goes_only_to_those_who_asked():
    last = b'{"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    for asked in (True, False):
        way = passage(asked)
        assert bool(fed(way, last)) is asked
        assert way.talk.usage == Usage(3, 2)


def test_usage_that_was_asked_for_and_never_came_is_added_at_the_end():
    way = passage(True)
    fed(way, chunk({"content": "x"}, "stop", model="m"))
    *_, usage, mark = way.ending(Usage(3, 2))
    assert (usage.body["id"], usage.body["choices"], usage.body["usage"]["total_tokens"]) == ("c1", [], 5)
    assert mark.frame == b"data: [DONE]\n\n"


def test_tool_calls_are_put_together_by_index():
    way = passage()
    for call in (
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": '{"x":1}'}},
        {"index": 1, "function": {"arguments": "}"}},
    ):
        fed(way, chunk({"tool_calls": [call]}))
    assert way.talk.said().parts == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}"))


def test_it_is_finished_when_every_choice_is():
    way = passage(choices=2)
    assert not way.talk.finished
    fed(way, orjson.dumps({"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {}}]}))
    fed(way, chunk(finish="stop"))
    assert not way.talk.finished
    fed(way, orjson.dumps({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}))
    assert way.talk.finished


@pytest.mark.parametrize("odd", [b"{", b"7", b"null", b"[]", b"\xff"])
def test_what_is_no_object_is_counted_and_skipped(odd):
    way = passage()
    assert fed(way, odd) == []
    assert way.malformed == 1


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
    way = passage(True)
    assert [shown.body for shown in fed(way, orjson.dumps(odd))] == [odd]
    assert CHAT.write_answer(way.talk.said())


def test_an_error_event_is_an_error():
    with pytest.raises(ProviderFailed, match="overloaded"):
        fed(passage(), b'{"error":{"message":"overloaded"}}')
