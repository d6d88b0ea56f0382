import pytest
from aiohttp import web

from backstay.demo import choice
from backstay.demo.choice import choose
from backstay.kernel.errors import ConfigurationError


@pytest.fixture
async def provider():
    """A server that offers models in the OpenAI format."""
    offered = {"models": ["nomic-embed-text", "llama3.2"], "keys": []}

    async def models(request):
        offered["keys"].append(request.headers.get("authorization"))
        return web.json_response({"data": [{"id": name} for name in offered["models"]]})

    served = web.Application()
    served.router.add_get("/v1/models", models)
    runner = web.AppRunner(served)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    offered["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield offered
    await runner.cleanup()


@pytest.fixture
def nobody(monkeypatch):
    monkeypatch.setattr(choice, "OLLAMA", "http://127.0.0.1:9")


async def test_without_any_key_it_is_the_simulator_and_says_so(nobody):
    chosen = await choose(None, {})
    assert chosen.simulated
    assert "not a language model" in chosen.note


async def test_an_openai_key_is_used(nobody):
    chosen = await choose(None, {"OPENAI_API_KEY": "sk-x"})
    assert chosen.model.startswith("openai:")
    assert chosen.embedder.startswith("openai:")


async def test_a_base_url_is_asked_for_its_chat_models(provider):
    chosen = await choose(None, {"OPENAI_BASE_URL": f"{provider['url']}/v1", "OPENAI_API_KEY": "sk-y"})
    assert chosen.model == "openai:llama3.2"
    assert chosen.embedder == "sim:dev-hash"
    assert provider["keys"] == ["Bearer sk-y"]


async def test_a_base_url_that_offers_nothing_is_an_error_with_its_mend(provider):
    provider["models"] = ["text-embedding-3-small"]
    with pytest.raises(ConfigurationError, match="--model"):
        await choose(None, {"OPENAI_BASE_URL": f"{provider['url']}/v1"})


async def test_a_local_ollama_is_used_when_it_answers(provider, monkeypatch):
    monkeypatch.setattr(choice, "OLLAMA", provider["url"])
    chosen = await choose(None, {})
    assert chosen.model == "openai:llama3.2"
    assert chosen.environment["OPENAI_BASE_URL"] == f"{provider['url']}/v1"


async def test_the_model_asked_for_wins(nobody):
    chosen = await choose("sim:echo", {"OPENAI_API_KEY": "sk-x"})
    assert (chosen.model, chosen.simulated) == ("sim:echo", True)
