"""OpenAI's embeddings."""

import base64
import struct
from collections.abc import Mapping
from typing import Any

from ....kernel.errors import BackstayError
from ...dialogue import EmbedAsk, Request, Vectors
from ...errors import ProviderFailed
from ...models import Usage
from .. import fields
from ..base import Body
from ..fields import wrong
from . import errors
from .words import usage_of

_MAX_DIMENSIONS = 65_536


class OpenAIEmbed:
    """`/v1/embeddings`."""

    name = "openai-embed"

    def check_embed(self, body: Body, size: int | None = None) -> Request:
        value = body.get("input")
        if not isinstance(value, str | list) or not value:
            raise wrong("input", "must be a text or a list that is not empty")
        if isinstance(value, list) and not all(isinstance(item, str | list | int) for item in value):
            raise wrong("input", "must hold texts or tokens")
        if body.get("encoding_format") not in (None, "float", "base64"):
            raise wrong("encoding_format", "must be float or base64")
        fields.count(body, "dimensions", _MAX_DIMENSIONS)
        return Request(
            model=fields.model(body),
            input_bound=fields.size_of(body) if size is None else size,
            user=fields.user(body),
        )

    def native(self, body: Body, model: str) -> Body:
        return {**body, "model": model}

    def read_embed(self, body: Body) -> EmbedAsk:
        value = body.get("input")
        inputs = [value] if isinstance(value, str) else value
        if not isinstance(inputs, list) or not all(isinstance(item, str) for item in inputs):
            raise wrong("input", "must be texts: tokens mean nothing to a provider of another format")
        return EmbedAsk(fields.model(body), tuple(inputs), fields.count(body, "dimensions", _MAX_DIMENSIONS))

    def write_embed(self, ask: EmbedAsk) -> Body:
        body: Body = {"model": ask.model, "input": list(ask.inputs), "encoding_format": "base64"}
        return body | ({"dimensions": ask.dimensions} if ask.dimensions else {})

    def read_vectors(self, body: Body, count: int) -> Vectors:
        try:
            rows = sorted(body["data"], key=lambda row: row["index"])
            vectors = [_floats(row["embedding"]) for row in rows]
        except (KeyError, TypeError, ValueError, struct.error):
            raise ProviderFailed("the provider's embeddings cannot be read") from None
        if len(vectors) != count:
            raise ProviderFailed(f"the provider sent {len(vectors)} embeddings for {count} texts")
        return Vectors(str(body.get("model") or ""), vectors, usage_of(body))

    def write_vectors(self, vectors: Vectors, asked: Body) -> Body:
        packed = asked.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else list(vector)}
            for index, vector in enumerate(vectors.vectors)
        ]
        read = vectors.usage.input_tokens if vectors.usage else 0
        usage = {"prompt_tokens": read, "total_tokens": read}
        return {"object": "list", "data": data, "model": vectors.model, "usage": usage}

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None:
        return usage_of(body)

    def error_of(self, body: Any) -> str | None:
        return errors.error_of(body)

    def status_of(self, body: Any) -> int | None:
        return errors.status_of(body)

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes:
        return errors.error_body(error)


def _floats(given: Any) -> list[float]:
    if isinstance(given, str):
        packed = base64.b64decode(given, validate=True)
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    return [float(value) for value in given]


def _packed(vector: Any) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
