"""The input of the job `http`."""

import pytest
from pydantic import ValidationError

from backstay.builtin import HttpCall

SECRET = "Bearer very-secret-value"


@pytest.mark.parametrize(
    ("input", "complaint"),
    [
        ({"url": "ftp://example.com/"}, "must be a whole URL"),
        ({"url": "https:///nowhere"}, "must be a whole URL"),
        ({"url": "https://e.com", "headers": {"a": "b\r\nevil: 1"}}, "line break"),
        ({"url": "https://e.com", "headers": {"a b": "c"}}, "cannot be the name of a header"),
        ({"url": "https://e.com", "headers": {"Host": "inner"}}, "is the client's own"),
        ({"url": "https://e.com", "headers": {"transfer-encoding": "chunked"}}, "is the client's own"),
        ({"url": "https://e.com", "idempotency_header": "a\r\nb"}, "cannot be the name of a header"),
        ({"url": "https://e.com", "json": {}, "body": "x"}, "not both"),
        ({"url": "https://e.com", "method": "GET", "body": "x"}, "has no body"),
        ({"url": "https://e.com", "method": "TRACE"}, "Input should be"),
        ({"url": "https://e.com", "timeout": 0}, "greater than"),
        ({"url": "https://e.com", "surprise": 1}, "Extra inputs"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(input: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        HttpCall.model_validate(input)


def test_headers_are_never_written_in_clear_by_mistake() -> None:
    call = HttpCall(url="https://example.com", headers={"authorization": SECRET})
    assert "very-secret-value" not in repr(call)
    with pytest.raises(ValueError, match="stored sealed"):
        call.model_dump_json()


def test_a_value_that_is_refused_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as refused:
        HttpCall(url="https://example.com", headers={"authorization": "very-secret-value\n"})
    assert "very-secret-value" not in str([error["msg"] for error in refused.value.errors(include_input=False)])
