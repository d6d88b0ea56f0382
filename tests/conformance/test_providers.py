"""What every provider of the table must do, each against a server that speaks its format: the simulator on a socket.

A package that brings a provider of its own runs the same by its name in `kinds()`.
"""

import json

import pytest

from backstay.gateway import Gateway, ProviderFailed, Timeouts
from backstay.gateway.pricing import Prices
from backstay.gateway.providers.account import Account
from backstay.gateway.providers.table import kinds
from backstay.gateway.sim.server import SimServer
from backstay.gateway.upstream import Upstream
from backstay.kernel.cache import Cache
from backstay.kernel.cache_postgres import PostgresStore

TEXT = "one two three four"
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}


@pytest.fixture(params=sorted(kinds()))
def kind(request):
    return kinds()[request.param]


@pytest.fixture
async def server():
    found = SimServer()
    found.keep_bodies = True
    async with found.running() as url:
        found.url = url
        yield found


@pytest.fixture
async def gateway(kind, server, app, settings):
    """A gateway whose only provider is one of this kind, at the simulator."""
    root = server.url.removesuffix("/v1")
    base = root if {"anthropic", "gemini"} & set(kind.wires) or kind.suffix == "/v1" else server.url
    async with Upstream(Timeouts(first_token=2, idle=2, total=10)) as upstream:
        account = Account(kind, upstream, Prices("1"), "a-key-of-ours", base if kind.suffix != "/openai/v1" else root)
        made = Gateway(
            app.db,
            app.clock,
            app.vault,
            app.audit,
            app.events,
            settings,
            cache=Cache(PostgresStore(app.db, app.clock), app.clock),
            providers=[account],
        )
        await made.start()
        yield made
        await made.stop()


def asked(kind, model: str = "sim:echo", **more) -> dict:
    return {"model": f"{kind.name}:{model}", "messages": [{"role": "user", "content": TEXT}], **more}


async def test_it_answers_in_a_whole_and_in_pieces(gateway, kind, owner, server):
    answer = await gateway.complete(owner, asked(kind, max_tokens=50), feature="f")
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert (answer.usage.output_tokens, answer.usage.estimated) == (4, False)
    pieces = []
    async for chunk in gateway.stream(owner, asked(kind, seed=3, user="ada"), feature="f"):
        pieces += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
    assert "".join(pieces) == TEXT
    sent = json.loads(server.received[-1])
    assert not kind.quirks.drops & sent.keys()
    assert "a-key-of-ours" in " ".join(server.headers[-1].values())


async def test_it_calls_tools_and_takes_their_results(gateway, kind, owner):
    talk = asked(kind, "sim:tools", tools=[TOOL], max_tokens=50)
    answer = await gateway.complete(owner, talk, feature="f")
    message = answer["choices"][0]["message"]
    [call] = message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("look", {"at": TEXT})
    talk["messages"] += [message, {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    answer = await gateway.complete(owner, talk, feature="f")
    assert "rain" in answer["choices"][0]["message"]["content"]


async def test_it_embeds_where_it_says_so(gateway, kind, owner):
    if kind.embeds is None:
        pytest.skip(f"{kind.name} has no embeddings in the table")
    found = await gateway.embed(owner, f"{kind.name}:sim:dev-hash", ["hello", "world"], feature="f")
    assert [len(vector) for vector in found.vectors] == [256, 256]


async def test_its_failures_are_errors(gateway, kind, owner):
    for fault in ("status:503", "cut:1", "malformed:1", "reset"):
        with pytest.raises(ProviderFailed):
            await gateway.complete(owner, asked(kind, f"sim:echo?fault={fault}", max_tokens=50), feature="f")


async def test_a_refused_key_says_where_to_look(gateway, kind, owner):
    with pytest.raises(ProviderFailed, match=f"provider {kind.name} does not accept the key"):
        await gateway.complete(owner, asked(kind, "sim:echo?fault=status:401", max_tokens=50), feature="f")
