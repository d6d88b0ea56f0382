import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.providers import Quirks
from backstay.gateway.wire import CHAT, EMBED, fields
from backstay.kernel.errors import BadRequest

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_fields = ["model", "messages", "stream", "stream_options", "max_tokens", "n", "tools", "input", "dimensions"]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_fields, _json)))
def test_any_object_is_read_or_refused(body):
    for check in (CHAT.check, EMBED.check_embed):
        with contextlib.suppress(BadRequest):
            assert check(body).input_bound >= 0


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw):
    with contextlib.suppress(BadRequest):
        fields.parse(raw)


def test_the_bound_counts_bytes_but_not_those_of_pictures():
    text = {"model": "m", "messages": [{"role": "user", "content": "x" * 1000}]}
    assert CHAT.check(text).input_bound >= 1000
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    parts = [{"type": "text", "text": "y" * 1000}, picture]
    found = CHAT.check({"model": "m", "messages": [{"role": "user", "content": parts}]}).input_bound
    assert 8192 + 1000 <= found < 20_000


@pytest.mark.parametrize("usage", [None, 7, {}, {"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": 1e9}])
def test_usage_that_says_nothing_counts_nothing(usage):
    found = CHAT.usage_of({"usage": usage})
    assert found is None or (found.input_tokens, found.output_tokens) == (0, 0)


def test_usage_with_details():
    found = CHAT.usage_of(
        {
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "prompt_tokens_details": {"cached_tokens": 99},
                "completion_tokens_details": {"reasoning_tokens": 3},
            }
        }
    )
    assert (found.input_tokens, found.cached_tokens, found.output_tokens, found.reasoning_tokens) == (10, 10, 5, 3)


def test_an_error_has_the_shape_that_clients_read():
    with pytest.raises(BadRequest) as caught:
        CHAT.check({"model": "m"})
    error = orjson.loads(CHAT.error_body(caught.value))["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "messages", "bad_request")


_part = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "refusal", "odd"])},
    optional=dict.fromkeys(("text", "image_url", "input_audio", "file", "refusal"), _json),
)
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "odd"])},
    optional={
        "content": _json | st.lists(_part, max_size=3),
        "tool_calls": _json,
        "tool_call_id": _json,
        "reasoning_details": _json,
        "refusal": _json,
    },
)
_settings = [
    "tools",
    "tool_choice",
    "response_format",
    "stop",
    "seed",
    "temperature",
    "reasoning_effort",
    "top_k",
    "user",
]


@given(st.lists(_message, min_size=1, max_size=4), st.fixed_dictionaries({}, optional=dict.fromkeys(_settings, _json)))
def test_any_talk_is_understood_or_refused_by_name(messages, more):
    with contextlib.suppress(BadRequest):
        ask = CHAT.read({"model": "m", "messages": messages} | more)
        CHAT.write(ask, Quirks())


def test_a_talk_survives_being_read_and_written():
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "mp3"}},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,CCCC", "filename": "a.pdf"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "a cat"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "sure?"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "reasoning_effort": "low",
        "max_tokens": 7,
        "temperature": 0.5,
        "stop": ["a", "b"],
        "seed": 3,
    }
    assert CHAT.write(CHAT.read(body), Quirks()) == body


def test_signed_thoughts_come_back_as_they_were():
    body = {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": "4",
                    "reasoning_content": "2+2",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "2+2", "signature": "s", "format": "anthropic-claude-v1"},
                        {"type": "reasoning.encrypted", "data": "xyz", "format": "anthropic-claude-v1"},
                    ],
                },
                "finish_reason": "stop",
            }
        ]
    }
    said = CHAT.read_answer(body)
    assert [(p.text, p.signature, p.redacted, p.origin) for p in said.parts[:2]] == [
        ("2+2", "s", False, "anthropic"),
        ("", "xyz", True, "anthropic"),
    ]
    again = CHAT.read_answer(CHAT.write_answer(said))
    assert again.parts == said.parts
