import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.wire import openai as wire
from backstay.kernel.errors import BadRequest

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_fields = ["model", "messages", "stream", "stream_options", "max_tokens", "n", "tools", "input", "dimensions"]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_fields, _json)))
def test_any_object_is_read_or_refused(body):
    for read in (wire.chat_request, wire.embed_request):
        with contextlib.suppress(BadRequest):
            assert read(body).input_bound >= 0


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw):
    with contextlib.suppress(BadRequest):
        wire.parse(raw)


def test_the_bound_counts_bytes_but_not_those_of_pictures():
    text = {"model": "m", "messages": [{"role": "user", "content": "x" * 1000}]}
    assert wire.chat_request(text).input_bound >= 1000
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    parts = [{"type": "text", "text": "y" * 1000}, picture]
    found = wire.chat_request({"model": "m", "messages": [{"role": "user", "content": parts}]}).input_bound
    assert 8192 + 1000 <= found < 20_000


@pytest.mark.parametrize("usage", [None, 7, {}, {"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": 1e9}])
def test_usage_that_says_nothing_counts_nothing(usage):
    found = wire.usage_of({"usage": usage})
    assert found is None or (found.input_tokens, found.output_tokens) == (0, 0)


def test_usage_with_details():
    found = wire.usage_of(
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
        wire.chat_request({"model": "m"})
    error = orjson.loads(wire.error_body(caught.value))["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "messages", "bad_request")
