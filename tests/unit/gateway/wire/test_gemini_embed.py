"""Embeddings and counted tokens."""

import pytest

from backstay.gateway.dialogue import EmbedAsk, Vectors
from backstay.gateway.errors import ProviderFailed
from backstay.gateway.models import Usage
from backstay.gateway.wire.gemini import Gemini, count_answer, count_order, count_request, counted
from backstay.kernel.errors import BadRequest

gemini = Gemini()


def content(*texts):
    return {"parts": [{"text": text} for text in texts]}


def test_one_content_is_read_in_both_styles():
    expected = EmbedAsk("e", ("a\nb",), 256, "RETRIEVAL_DOCUMENT", "t")
    for names in (("taskType", "outputDimensionality"), ("task_type", "output_dimensionality")):
        body = {"model": "models/e", "content": content("a", "b"), "title": "t"}
        assert gemini.read_embed(body | dict(zip(names, ("RETRIEVAL_DOCUMENT", 256), strict=True))) == expected


def test_a_batch_is_read_and_checked():
    body = {
        "model": "e",
        "requests": [{"content": content("a"), "taskType": "X"}, {"content": content("b"), "taskType": "X"}],
    }
    assert gemini.read_embed(body) == EmbedAsk("e", ("a", "b"), None, "X")
    request = gemini.check_embed(body, size=123)
    assert (request.model, request.turns, request.input_bound) == ("e", 2, 123)
    assert gemini.check_embed(body).input_bound > 20


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "content"),
        ({"content": 7}, "content"),
        ({"content": {"parts": []}}, "content"),
        ({"content": {"parts": [{"inlineData": {}}]}}, "content.parts[0]"),
        ({"requests": [7]}, "requests[0]"),
        ({"requests": [{}]}, "requests[0].content"),
        ({"requests": [{"content": content("a")}], "content": content("b")}, "content"),
        ({"content": content("a"), "outputDimensionality": 0}, "outputDimensionality"),
        ({"requests": [{"content": content("a")}, {"content": content("b"), "taskType": "X"}]}, "requests[1]"),
        ({"content": content("a"), "model": 7}, "model"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(body, field):
    for call in (gemini.read_embed, gemini.check_embed):
        with pytest.raises(BadRequest) as caught:
            call({"model": "e", **body})
        assert caught.value.errors[0].field == field


def test_a_provider_is_asked_for_a_batch_that_names_its_model():
    asked = EmbedAsk("gemini-embedding-001", ("a", "b"), 64, "CLUSTERING")
    body = gemini.write_embed(asked)
    settings = {"model": "models/gemini-embedding-001", "taskType": "CLUSTERING", "outputDimensionality": 64}
    assert body == {"requests": [{"content": content("a"), **settings}, {"content": content("b"), **settings}]}
    assert gemini.read_embed({**body, "model": "gemini-embedding-001"}) == asked


def test_vectors_are_read_in_their_order():
    body = {"embeddings": [{"values": [1, 0.5]}, {"values": [2, 3]}], "usageMetadata": {"promptTokenCount": 4}}
    assert gemini.read_vectors(body, 2) == Vectors("", [[1.0, 0.5], [2.0, 3.0]], Usage(4))
    assert gemini.read_vectors({"embedding": {"values": [1.5]}}, 1) == Vectors("", [[1.5]])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"embeddings": [{"values": [1]}]},
        {"embeddings": 7},
        {"embeddings": [7, 8]},
        {"embeddings": [{"values": ["x"]}, {}]},
        {"embeddings": {"values": [1]}},
        {"embedding": None},
    ],
)
def test_vectors_that_are_missing_or_broken_are_the_providers_failure(body):
    with pytest.raises(ProviderFailed):
        gemini.read_vectors(body, 2)


def test_a_client_gets_vectors_in_the_shape_it_asked_for():
    one = Vectors("e", [(1.0, 2.0)], Usage(3))
    meta = {"promptTokenCount": 3, "candidatesTokenCount": 0, "totalTokenCount": 3}
    assert gemini.write_vectors(one, {"content": content("a")}) == {
        "embedding": {"values": [1.0, 2.0]},
        "usageMetadata": meta,
    }
    assert gemini.write_vectors(Vectors("e", one.vectors), {"requests": [{}]}) == {
        "embeddings": [{"values": [1.0, 2.0]}]
    }


def test_tokens_are_counted_of_the_request_that_is_meant():
    inner = {"model": "models/m", "contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 5}}
    for name in ("generateContentRequest", "generate_content_request"):
        body = count_request({"model": "m", "stream": True, name: inner})
        assert gemini.check(body).max_tokens == 5
        assert not gemini.check(body).stream
    plain = {"model": "m", "contents": inner["contents"]}
    assert count_request(plain) == plain
    with pytest.raises(BadRequest) as caught:
        count_request({**plain, "generateContentRequest": inner})
    assert caught.value.errors[0].field == "contents"


def test_a_provider_counts_and_the_client_is_told():
    order = count_order(gemini.write(gemini.read({"model": "m", "contents": [content("hi")]})), "gemini-3-flash")
    assert order == {
        "generateContentRequest": {
            "model": "models/gemini-3-flash",
            "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        }
    }
    assert counted(count_answer(7)) == 7
    assert counted({}) == 0
    with pytest.raises(ProviderFailed):
        counted({"totalTokens": "many"})
