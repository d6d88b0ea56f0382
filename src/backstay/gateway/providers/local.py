"""Embedding models in this process, by sentence-transformers: no request leaves the machine, and nothing costs money.

Only the models that the operator names are there: a tenant that could name a folder could have any file on this machine
read as a model.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import Any, Protocol

import orjson

from ...kernel.errors import ConfigurationError
from ..errors import ModelNotFound, ProviderFailed
from ..exchange import Exchange
from ..pricing import PerCall, Price
from ..wire import Quirks
from .base import Outgoing

LIBRARY = "sentence_transformers"
INPUTS = 128  # a request keeps a core busy for seconds as it is


class Model(Protocol):
    """What of a SentenceTransformer is needed here."""

    @property
    def tokenizer(self) -> Any: ...

    def encode(self, sentences: list[str], *, normalize_embeddings: bool, show_progress_bar: bool) -> Any: ...


def _load(place: str) -> Model:
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    model: Model = SentenceTransformer(place, trust_remote_code=False)
    return model


class LocalProvider:
    """`local:<name>` for each name in `places`, which says the folder or the hub's name of its model.

    A model is loaded when it is first asked, in a thread, and answers one request at a time.

    Raises:
        ConfigurationError: models are named and the extra `local` is not installed.
    """

    name = key = "local"
    refusal = "a model in this process asks for no key"
    wires = ("openai-chat",)
    embeds = "openai-embed"
    quirks = Quirks()

    def __init__(self, places: Mapping[str, str], load: Callable[[str], Model] | None = None) -> None:
        if load is None and find_spec(LIBRARY) is None:
            raise ConfigurationError(
                f"BACKSTAY_LOCAL_MODELS names {', '.join(places)}, but nothing that runs them is installed: "
                "pip install 'backstay[local]'"
            )
        self._places, self._load = dict(places), load or _load
        self._loaded: dict[str, Model] = {}
        self._turns = {name: asyncio.Lock() for name in places}

    @asynccontextmanager
    async def post(self, outgoing: Outgoing) -> AsyncIterator[Exchange]:
        if outgoing.kind != "embed":
            yield _answer(404, {"error": {"message": f"local:{outgoing.model} makes embeddings and nothing else"}})
            return
        asked = orjson.loads(outgoing.body)
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        if not all(isinstance(text, str) for text in texts):
            yield _answer(400, {"error": {"message": "models in this process take texts, not tokens"}})
            return
        async with self._turns[outgoing.model]:
            packed, tokens = await asyncio.to_thread(self._embed, outgoing.model, texts)
        rows = [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(packed)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        yield _answer(200, {"object": "list", "data": rows, "model": outgoing.model, "usage": usage})

    def price(self, model: str, at: datetime) -> Price:
        return PerCall(Decimal(0), self.canonical(model))

    def search_fee(self, model: str, at: datetime) -> Decimal | None:
        return Decimal(0)  # it searches nothing

    def canonical(self, model: str) -> str:
        if model not in self._places:
            known = ", ".join(self._places)
            raise ModelNotFound(f"there is no model local:{model}; BACKSTAY_LOCAL_MODELS names {known}")
        return model

    def models(self) -> list[str]:
        return list(self._places)

    def _embed(self, name: str, texts: Sequence[str]) -> tuple[list[str], int]:
        """Each text's vector of length 1, packed as OpenAI does, and the tokens in all of them as the model counts."""
        model = self._loaded.get(name) or self._first(name)
        tokens = sum(len(ids) for ids in model.tokenizer(list(texts), truncation=True)["input_ids"])
        vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors], tokens

    def _first(self, name: str) -> Model:
        try:
            model = self._loaded[name] = self._load(self._places[name])
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise ProviderFailed(f"the model local:{name} cannot be loaded: {error}") from error
        return model


def _answer(status: int, body: Mapping[str, Any]) -> "_LocalExchange":
    return _LocalExchange(status, orjson.dumps(body))


@dataclass(frozen=True, slots=True)
class _LocalExchange:
    status: int
    body: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        return {"content-type": "application/json"}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self.body

    async def read(self) -> bytes:
        return self.body
