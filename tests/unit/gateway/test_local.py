"""Models in this process: the named ones and no others, one request at a time, in the shape of any provider's."""

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from backstay.gateway.errors import ModelNotFound, ProviderFailed
from backstay.gateway.providers import Outgoing, local
from backstay.gateway.providers.local import LocalProvider
from backstay.gateway.wire.openai.embed import OpenAIEmbed
from backstay.kernel.errors import ConfigurationError

np = pytest.importorskip("numpy")


class Lengths:
    """A model whose vector of a text says how long it is."""

    def __init__(self, place: str) -> None:
        self.place, self.at_once, self.most, self.gate = place, 0, 0, threading.Event()
        self.gate.set()

    def tokenizer(self, texts: list[str], truncation: bool) -> dict[str, Any]:
        return {"input_ids": [text.split() for text in texts]}

    def encode(self, sentences: list[str], *, normalize_embeddings: bool, show_progress_bar: bool) -> Any:
        assert normalize_embeddings
        assert not show_progress_bar
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.gate.wait(10)
        self.at_once -= 1
        return np.array([[len(text), 1.0] for text in sentences], dtype="float64")


def embedding(model: str, *texts: Any) -> Outgoing:
    body = orjson.dumps({"model": model, "input": list(texts), "encoding_format": "base64"})
    return Outgoing("openai-embed", "embed", model, False, body, {})


async def ask(provider: LocalProvider, outgoing: Outgoing) -> tuple[int, Any]:
    async with provider.post(outgoing) as exchange:
        return exchange.status, orjson.loads(await exchange.read())


async def test_vectors_come_in_the_shape_of_openais_with_the_tokens_that_were_read() -> None:
    provider = LocalProvider({"mine": "/models/mine"}, Lengths)
    status, body = await ask(provider, embedding("mine", "one two", "three"))
    assert status == 200
    vectors = OpenAIEmbed().read_vectors(body, 2)
    assert [list(vector) for vector in vectors.vectors] == [[7.0, 1.0], [5.0, 1.0]]
    assert vectors.usage is not None
    assert vectors.usage.input_tokens == 3


async def test_a_model_is_loaded_once_from_where_the_operator_says() -> None:
    loaded: list[Lengths] = []

    def load(place: str) -> Lengths:
        loaded.append(Lengths(place))
        return loaded[-1]

    provider = LocalProvider({"mine": "/models/mine"}, load)
    await asyncio.gather(*(ask(provider, embedding("mine", "text")) for _ in range(4)))
    assert [model.place for model in loaded] == ["/models/mine"]
    assert loaded[0].most == 1


@pytest.mark.parametrize("name", ["/etc/passwd", "../mine", "other", ""])
def test_a_model_that_the_operator_did_not_name_is_not_there(name: str) -> None:
    with pytest.raises(ModelNotFound, match="BACKSTAY_LOCAL_MODELS names mine"):
        LocalProvider({"mine": "/models/mine"}, Lengths).price(name, datetime.now(UTC))


async def test_what_it_cannot_do_is_answered_like_a_provider_would() -> None:
    provider = LocalProvider({"mine": "/models/mine"}, Lengths)
    chat = Outgoing("openai-chat", "chat", "mine", False, b"{}", {})
    assert (await ask(provider, chat))[0] == 404
    assert (await ask(provider, embedding("mine", 17)))[0] == 400


async def test_a_model_that_does_not_load_is_a_failure_of_the_provider_that_names_it() -> None:
    def load(_: str) -> Lengths:
        raise OSError("no such folder")

    with pytest.raises(ProviderFailed, match="local:mine cannot be loaded: no such folder"):
        await ask(LocalProvider({"mine": "/nowhere"}, load), embedding("mine", "text"))


def test_naming_models_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'backstay\[local\]'"):
        LocalProvider({"mine": "/models/mine"})


def tiny(folder: Path) -> str:
    """A model of random weights with a vocabulary of a few words, made here: nothing is downloaded."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "moon"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    shape = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(shape).save_pretrained(folder)
    return str(folder)


async def test_a_real_model_of_sentence_transformers_answers(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `local` is not installed")
    provider = LocalProvider({"tiny": tiny(tmp_path)})
    status, body = await ask(provider, embedding("tiny", "the cat sat", "the moon", "the cat sat"))
    assert status == 200
    first, second, again = OpenAIEmbed().read_vectors(body, 3).vectors
    assert len(first) == 16
    assert sum(value * value for value in first) == pytest.approx(1.0, abs=1e-4)
    assert first == pytest.approx(again, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-3)
