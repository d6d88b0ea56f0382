"""The table of providers: addresses, keys, formats, and what other packages bring along."""

from importlib.metadata import EntryPoint

import pytest

from backstay.gateway.models import Timeouts
from backstay.gateway.pricing import Prices
from backstay.gateway.providers import Outgoing, Providers, Quirks, table
from backstay.gateway.providers.account import Account, configured
from backstay.gateway.providers.table import KINDS, ProviderKind, kinds
from backstay.gateway.upstream import Upstream
from backstay.gateway.wire import EMBED_WIRES, WIRES
from backstay.kernel.errors import ConfigurationError

UPSTREAM = Upstream(Timeouts())


def account(name: str, base: str | None = None, **more) -> Account:
    return Account(KINDS[name], UPSTREAM, Prices(), "secret", base, **more)


def outgoing(wire: str, kind="chat", model="m", stream=False) -> Outgoing:
    return Outgoing(wire, kind, model, stream, b"{}", {})


@pytest.mark.parametrize(
    ("name", "base", "request_", "address"),
    [
        ("openai", None, outgoing("openai-chat"), "https://api.openai.com/v1/chat/completions"),
        ("openai", None, outgoing("openai-responses"), "https://api.openai.com/v1/responses"),
        ("openai", "http://127.0.0.1:1/v1/", outgoing("openai-embed", "embed"), "http://127.0.0.1:1/v1/embeddings"),
        ("anthropic", None, outgoing("anthropic"), "https://api.anthropic.com/v1/messages"),
        ("anthropic", None, outgoing("anthropic", "count"), "https://api.anthropic.com/v1/messages/count_tokens"),
        (
            "azure",
            "https://x.openai.azure.com",
            outgoing("openai-chat"),
            "https://x.openai.azure.com/openai/v1/chat/completions",
        ),
        ("ollama", "127.0.0.1:11434", outgoing("openai-chat"), "http://127.0.0.1:11434/v1/chat/completions"),
        ("vllm", "http://127.0.0.1:8000/v1", outgoing("openai-chat"), "http://127.0.0.1:8000/v1/chat/completions"),
        ("deepseek", None, outgoing("openai-chat"), "https://api.deepseek.com/chat/completions"),
    ],
)
def test_requests_go_where_the_provider_takes_them(name, base, request_, address):
    assert account(name, base)._address(request_) == address


def test_azures_older_addresses_name_the_deployment_and_a_version():
    old = account("azure", "https://x.openai.azure.com/", api_version="2024-10-21")
    assert old._address(outgoing("openai-chat", model="my-gpt")) == (
        "https://x.openai.azure.com/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
    )


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("openai", "authorization", "Bearer secret"),
        ("anthropic", "x-api-key", "secret"),
        ("gemini", "x-goog-api-key", "secret"),
        ("azure", "api-key", "secret"),
    ],
)
def test_each_provider_is_given_its_key_in_its_own_way(name, header, value):
    headers = account(name, "https://h.example.org" if KINDS[name].url is None else None)._headers
    assert headers[header] == value
    assert sum("secret" in given for given in headers.values()) == 1


def test_every_row_speaks_formats_that_there_are():
    for kind in KINDS.values():
        assert set(kind.wires) <= set(WIRES)
        assert kind.embeds is None or kind.embeds in EMBED_WIRES


def test_a_server_of_ones_own_is_taken_to_speak_chat_completions_only():
    assert account("openai", "http://127.0.0.1:1/v1").wires == ("openai-chat",)
    assert account("openai").wires == ("openai-chat", "openai-responses")
    assert account("openai", "http://127.0.0.1:1/v1", wires=("openai-responses",)).wires == ("openai-responses",)


def test_a_key_or_a_base_url_makes_a_provider():
    found = configured(
        {"ANTHROPIC_API_KEY": "k", "OLLAMA_HOST": "127.0.0.1", "AZURE_OPENAI_API_KEY": "k"}, UPSTREAM, Prices()
    )
    assert [one.name for one in found] == ["anthropic", "ollama"]  # azure has no address of its own


def test_what_a_provider_refuses_is_left_out_and_renamed():
    body = {"model": "m", "seed": 3, "stream_options": {}, "user": "u", "messages": []}
    assert KINDS["mistral"].quirks.adapt(body) == {"model": "m", "random_seed": 3, "messages": []}
    assert Quirks().adapt(body) is body


def test_accounts_with_different_keys_are_told_apart():
    one, two = Account(KINDS["groq"], UPSTREAM, Prices(), "a"), Account(KINDS["groq"], UPSTREAM, Prices(), "b")
    assert one.key != two.key
    assert one.key != "a"


MINE = ProviderKind("mine", "http://127.0.0.1:9/v1", ("openai-chat",), key="MINE_API_KEY")


def entry_points_of(monkeypatch, target: str):
    point = EntryPoint("mine", f"{__name__}:{target}", table.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[target])
    monkeypatch.setattr(table, "entry_points", lambda group: [point] if group == table.GROUP else [])
    kinds.cache_clear()


def test_a_package_may_bring_a_provider(monkeypatch):
    entry_points_of(monkeypatch, "MINE")
    try:
        [mine] = configured({"MINE_API_KEY": "k"}, UPSTREAM, Prices("0"))
        providers = Providers([mine])
        assert providers.named("mine") is mine
        assert providers.named("other") is None
        assert "mine:<model>" in providers.mend()
    finally:
        kinds.cache_clear()


def test_an_entry_point_that_is_no_provider_stops_the_start(monkeypatch):
    entry_points_of(monkeypatch, "UPSTREAM")
    try:
        with pytest.raises(ConfigurationError, match="no ProviderKind"):
            kinds()
    finally:
        kinds.cache_clear()
