"""The embedding half of the Gemini format, and its counting of tokens.

`embedContent` has one content and answers with one embedding, `batchEmbedContents` has a list of such requests; a
provider is always asked for a batch.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from ...dialogue import EmbedAsk, Request, Vectors
from ...errors import ProviderFailed
from ..base import Body
from ..fields import wrong
from .answer import usage_metadata, usage_of
from .fields import Fields
from .read import model_of, size_of

_MAX_DIMENSIONS = 65_536
_PRIVATE = frozenset({"model", "stream"})


class GeminiEmbed:
    """Model and `stream` stand in the path; the front puts the model into the body as the private key `model`."""

    name: ClassVar[str] = "gemini"

    def native(self, body: Body, model: str) -> Body:
        """The private keys are left out; the requests of a batch of embeddings, and the one whose tokens are to be
        counted, name the model once more."""
        out = {name: value for name, value in body.items() if name not in _PRIVATE}
        if isinstance(requests := out.get("requests"), list):
            named = {"model": resource(model)}
            out["requests"] = [{**each, **named} if isinstance(each, dict) else each for each in requests]
        for name in ("generateContentRequest", "generate_content_request"):
            if isinstance(inner := out.get(name), dict):
                out[name] = {**inner, "model": resource(model)}
        return out

    def check_embed(self, body: Body, size: int | None = None) -> Request:
        """
        Raises:
            BadRequest: a field is missing or of the wrong type; the error names it (400).
        """
        fields = Fields(body)
        asked = self.read_embed(body)
        return Request(model=model_of(fields), input_bound=size_of(body, size), turns=len(asked.inputs))

    def read_embed(self, body: Body) -> EmbedAsk:
        """
        Raises:
            BadRequest: a content has no text, or the requests of a batch differ in more than their contents (400).
        """
        fields = Fields(body)
        batch = fields.objects("requests")
        if batch and fields.value("content") is not None:
            raise wrong("content", "and requests exclude each other")
        requests = batch or [fields]
        inputs = tuple(_text(request) for request in requests)
        settings = [
            (
                request.whole("outputDimensionality", 1, _MAX_DIMENSIONS),
                request.text("taskType"),
                request.text("title"),
            )
            for request in requests
        ]
        for request, found in zip(requests, settings, strict=True):
            if found != settings[0]:
                raise wrong(request.at, "has another taskType, title or outputDimensionality than the first request")
        return EmbedAsk(model_of(fields), inputs, *settings[0])

    def write_embed(self, ask: EmbedAsk) -> Body:
        """The body for `batchEmbedContents`, where each request names the model again."""
        settings = {"taskType": ask.task, "title": ask.title, "outputDimensionality": ask.dimensions}
        given = {name: value for name, value in settings.items() if value is not None}
        return {
            "requests": [
                {"model": resource(ask.model), "content": {"parts": [{"text": text}]}, **given} for text in ask.inputs
            ]
        }

    def read_vectors(self, body: Body, count: int) -> Vectors:
        """
        Raises:
            ProviderFailed: the answer cannot be read, or has not `count` vectors.
        """
        rows = [body["embedding"]] if "embedding" in body else body.get("embeddings")
        try:
            vectors = [[float(value) for value in row["values"]] for row in rows or ()]
        except (KeyError, TypeError, ValueError):
            raise ProviderFailed("the provider's embeddings cannot be read") from None
        if len(vectors) != count:
            raise ProviderFailed(f"the provider sent {len(vectors)} embeddings for {count} texts")
        return Vectors("", vectors, usage_of(body))

    def write_vectors(self, vectors: Vectors, asked: Body) -> Body:
        """`embeddings` for a batch, `embedding` for one content."""
        rows: list[Body] = [{"values": list(vector)} for vector in vectors.vectors]
        answer: Body = {"embeddings": rows} if "requests" in asked else {"embedding": rows[0] if rows else {}}
        if vectors.usage is not None:
            answer["usageMetadata"] = usage_metadata(vectors.usage)
        return answer


def resource(model: str) -> str:
    """A model as Google names it in a path and in a body."""
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


def count_request(body: Body) -> Body:
    """A `countTokens` request as the `generateContent` request whose tokens it counts, for `check` and `read`.

    Raises:
        BadRequest: it has neither contents nor a generateContentRequest, or both (400).
    """
    fields = Fields(body)
    inner = fields.object("generateContentRequest")
    if inner is None:
        return body
    if fields.value("contents") is not None:
        raise wrong("contents", "and generateContentRequest exclude each other")
    return {**inner.body, "model": body.get("model"), "stream": False}


def count_order(body: Mapping[str, Any], model: str) -> Body:
    """The body for `countTokens` of a provider, from what `write` made for its `model`."""
    return {"generateContentRequest": {"model": resource(model), **body}}


def counted(body: Mapping[str, Any]) -> int:
    """The tokens that a provider counted.

    Raises:
        ProviderFailed: the answer has no count.
    """
    total = body.get("totalTokens", 0)
    if type(total) is not int or total < 0:
        raise ProviderFailed("the provider's count of tokens cannot be read")
    return total


def count_answer(tokens: int) -> Body:
    """The answer for a client who asked `countTokens`."""
    return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}


def _text(request: Fields) -> str:
    texts = []
    for part in request.required("content").objects("parts"):
        text = part.text("text")
        if text is None:
            raise wrong(part.at, "must have a text; nothing else can be embedded here")
        texts.append(text)
    if not texts:
        raise wrong(request.path("content"), "must have a part with a text")
    return "\n".join(texts)
