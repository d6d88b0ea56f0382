"""Paths, errors and what passes from a Gemini client to a Gemini provider."""

import orjson
import pytest

from backstay.gateway.errors import BudgetExceeded, ProviderFailed, ProviderRefused
from backstay.gateway.models import Usage
from backstay.gateway.wire.gemini import Gemini, path
from backstay.kernel.errors import (
    BadRequest,
    FieldError,
    Forbidden,
    Invalid,
    NotFound,
    TimedOut,
    TooMany,
    Unauthorized,
    Unavailable,
)

gemini = Gemini()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("gemini-3-flash", "chat", False), "models/gemini-3-flash:generateContent"),
        (("gemini-3-flash", "chat", True), "models/gemini-3-flash:streamGenerateContent?alt=sse"),
        (("models/gemini-3-flash", "chat"), "models/gemini-3-flash:generateContent"),
        (("tunedModels/mine", "chat"), "tunedModels/mine:generateContent"),
        (("gemini-embedding-001", "embed"), "models/gemini-embedding-001:batchEmbedContents"),
        (("gemini-3-flash", "count"), "models/gemini-3-flash:countTokens"),
        (("../cachedContents", "chat"), "models/..%2FcachedContents:generateContent"),
        (("m?key=x#y", "chat"), "models/m%3Fkey%3Dx%23y:generateContent"),
    ],
)
def test_a_provider_is_asked_at_its_path_and_nowhere_else(asked, expected):
    assert path(*asked) == expected


def test_what_goes_on_to_a_gemini_provider_names_its_model_and_loses_the_private_keys():
    body = {"model": "alias", "stream": True, "contents": [], "futureField": {"a": 1}}
    assert Gemini().native(body, "gemini-3-flash") == {"contents": [], "futureField": {"a": 1}}
    batch = {"model": "alias", "requests": [{"model": "models/alias", "content": {}}, 7]}
    assert Gemini().native(batch, "e")["requests"] == [{"model": "models/e", "content": {}}, 7]
    count = {"model": "alias", "generateContentRequest": {"model": "models/alias", "contents": []}}
    assert Gemini().native(count, "g") == {"generateContentRequest": {"model": "models/g", "contents": []}}
    assert body["model"] == "alias"


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (BadRequest("x"), 400, "INVALID_ARGUMENT"),
        (Unauthorized("x"), 401, "UNAUTHENTICATED"),
        (BudgetExceeded("x"), 402, "RESOURCE_EXHAUSTED"),
        (Forbidden("x"), 403, "PERMISSION_DENIED"),
        (NotFound("x"), 404, "NOT_FOUND"),
        (Invalid("x"), 422, "INVALID_ARGUMENT"),
        (TooMany("x"), 429, "RESOURCE_EXHAUSTED"),
        (ProviderFailed("x"), 502, "INTERNAL"),
        (Unavailable("x"), 503, "UNAVAILABLE"),
        (TimedOut("x"), 504, "DEADLINE_EXCEEDED"),
        (ProviderRefused("x", 429, b"{}", {}, "gemini"), 429, "RESOURCE_EXHAUSTED"),
    ],
)
def test_an_error_has_googles_names(error, code, status):
    found = orjson.loads(gemini.error_body(error))["error"]
    assert (found["code"], found["status"], found["message"]) == (code, status, "x")


def test_an_error_says_which_field_which_request_and_how_long_to_wait():
    error = BadRequest(
        "`contents` is wrong", errors=[FieldError("contents", "must be a list")], headers={"retry-after": "7"}
    )
    found = orjson.loads(gemini.error_body(error, "req-1"))["error"]
    assert found["message"] == "`contents` is wrong: must be a list"
    details = {detail.pop("@type").rpartition(".")[2]: detail for detail in found["details"]}
    assert details == {
        "ErrorInfo": {"reason": "BAD_REQUEST", "domain": "backstay"},
        "BadRequest": {"fieldViolations": [{"field": "contents", "description": "must be a list"}]},
        "RetryInfo": {"retryDelay": "7s"},
        "RequestInfo": {"requestId": "req-1"},
    }


def test_an_error_in_a_stream_is_an_event_and_then_bare():
    raw = gemini.error_event(Unavailable("gone"), Usage(3, 1))
    event, _, bare = raw.partition(b"\n\n")
    # Google's Python client looks for these very first characters.
    assert event.startswith(b'data: {"error":')
    body = orjson.loads(event.removeprefix(b"data: "))
    assert body["usageMetadata"]["promptTokenCount"] == 3
    assert orjson.loads(bare) == {"error": body["error"]}
    assert bare.endswith(b"}\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, "overloaded"),
        ([{"candidates": []}, {"error": {"message": "late"}}], "late"),
        ({"error": {}}, None),
        ({"error": {"code": 500}}, "the provider reported an error without a message"),
        ({"error": "plain"}, "plain"),
        ({"candidates": []}, None),
        ([], None),
        (7, None),
    ],
)
def test_an_error_inside_an_answer_is_found(answer, message):
    assert gemini.error_of(answer) == message


def test_the_format_has_no_end_mark():
    assert (gemini.name, gemini.end_mark) == ("gemini", b"")
