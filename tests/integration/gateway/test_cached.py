"""Kept answers through the whole pipeline: priced at zero, recorded, replayed as streams, never another tenant's."""

import asyncio
from decimal import Decimal

import anthropic
import openai
import pytest

from backstay.gateway.catalog import Route

TEXT = "one two three four"
SAY = [{"role": "user", "content": TEXT}]
MODEL = "openai:sim:echo"


def asked(model: str = MODEL, **more) -> dict:
    return {"model": model, "messages": SAY, "max_tokens": 50, **more}


KEEP = {"backstay-cache": "ttl=60"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_the_second_answer_is_the_first_and_costs_nothing(http, provider, rows, path):
    body = asked() | {"input": TEXT}
    first = await http.post(path, json=body, headers=KEEP)
    second = await http.post(path, json=body, headers=KEEP)
    assert (first.status_code, second.status_code, provider.requests) == (200, 200, 1)
    assert second.json() == first.json()
    assert "backstay-cache" not in first.headers
    assert second.headers["backstay-cache"].startswith("hit, found=exact, age=")
    assert Decimal(second.headers["backstay-cost"]) == 0
    found = await rows("select cost, cached, saved_by_cache, outcome from backstay.call order by started_at")
    assert [(row["cost"] > 0, row["cached"], row["outcome"]) for row in found] == [
        (True, None, "ok"),
        (False, "exact", "ok"),
    ]
    assert found[1]["saved_by_cache"] == found[0]["cost"]
    assert await rows("select count(*) as n from backstay.audit_entry where action = 'model.call.finished'") == [
        {"n": 2}
    ]
    assert await rows("select 1 as one from backstay.hold") == []


async def test_a_kept_answer_is_replayed_as_a_stream_and_a_stream_is_kept(url, household, provider):
    async with openai.AsyncOpenAI(api_key=household.key, base_url=f"{url}/v1", max_retries=0) as client:
        for _ in range(2):
            stream = await client.chat.completions.create(
                **asked(stream=True, stream_options={"include_usage": True}), extra_headers=KEEP
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
            assert chunks[-1].usage.completion_tokens == 4
        whole = await client.chat.completions.create(**asked(), extra_headers=KEEP)
        assert whole.choices[0].message.content == TEXT
    assert provider.requests == 1
    async with anthropic.AsyncAnthropic(api_key=household.key, base_url=url, max_retries=0) as client:
        for _ in range(2):
            async with client.messages.stream(**asked("anthropic:sim:echo"), extra_headers=KEEP) as stream:
                assert await stream.get_final_text() == TEXT
    assert provider.requests == 2


async def test_a_route_may_keep_answers_and_a_request_may_say_no(gateway, owner, http, provider):
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=[MODEL], cache={"ttl": 60}))
    for _ in range(2):
        await http.post("/v1/chat/completions", json=asked("smart"))
    assert provider.requests == 1
    await http.post("/v1/chat/completions", json=asked("smart"), headers={"cache-control": "no-store"})
    await http.post("/v1/chat/completions", json=asked("smart"), headers={"backstay-cache": "off"})
    assert provider.requests == 3
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=["sim:extract"], cache={"ttl": 60}))
    answer = await http.post("/v1/chat/completions", json=asked("smart"))
    assert answer.json()["model"] == "sim:extract"  # a changed route forgets


async def test_two_tenants_never_share_an_answer(http, url, other_household, provider):
    await http.post("/v1/chat/completions", json=asked(), headers=KEEP)
    theirs = {**KEEP, "authorization": f"Bearer {other_household.key}"}
    answer = await http.post("/v1/chat/completions", json=asked(), headers=theirs)
    assert (answer.status_code, provider.requests) == (200, 2)
    assert "backstay-cache" not in answer.headers


@pytest.mark.parametrize(
    "body",
    [
        asked("openai:sim:echo", max_tokens=2),  # truncated
        asked("openai:sim:tools", tools=[{"type": "function", "function": {"name": "f"}}]),
        asked("openai:sim:echo", n=2),
    ],
)
async def test_what_would_be_wrong_to_repeat_is_asked_anew(http, provider, body):
    for _ in range(2):
        assert (await http.post("/v1/chat/completions", json=body, headers=KEEP)).status_code == 200
    assert provider.requests == 2


async def test_errors_are_never_kept(http, provider):
    model = "openai:sim:echo?fault=flap:3/4"
    assert (await http.post("/v1/chat/completions", json=asked(model), headers=KEEP)).status_code == 503
    assert (await http.post("/v1/chat/completions", json=asked(model), headers=KEEP)).status_code == 200


async def test_those_who_ask_at_the_same_time_share_one_answer(http, provider, rows):
    body = asked(f"{MODEL}?ttft=300ms")
    answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body, headers=KEEP) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert provider.requests == 1
    assert sum("found=shared" in answer.headers.get("backstay-cache", "") for answer in answers) == 9
    assert await rows("select 1 as one from backstay.hold") == []


async def test_a_stream_that_its_client_leaves_hands_the_lead_on(gateway, owner, provider):
    async def order():
        body = asked(f"{MODEL}?itl=20ms&tokens=40", stream=True)
        return await gateway.order(owner, "openai-chat", "chat", body, feature="f", headers=KEEP)

    leader = gateway.chunks(await order())
    await anext(leader)
    follower = asyncio.create_task(_whole(gateway, await order()))
    await asyncio.sleep(0)
    await leader.aclose()
    async with asyncio.timeout(10):
        assert len(await follower) > 40
    assert provider.requests == 2


async def _whole(gateway, order) -> list:
    return [chunk async for group in gateway.chunks(order) for chunk in group]


async def test_near_requests_are_answered_by_meaning(make_gateway, owner, provider):
    gateway = await make_gateway(provider.url, cache_embedder="sim:dev-hash")
    headers = {"backstay-cache": "ttl=60, semantic=0.8"}

    async def ask(text: str):
        body = asked() | {"messages": [{"role": "user", "content": text}]}
        order = await gateway.order(owner, "openai-chat", "chat", body, feature="f", headers=headers)
        reply = await gateway.answer(order)
        return reply, dict(order.told).get(b"backstay-cache", b"").decode()

    first, _ = await ask("how do I return the blue parcel that came yesterday to your shop")
    near, told = await ask("how do I return the blue parcel that came yesterday to the shop")
    far, nothing = await ask("what is the capital of Norway")
    assert near.raw == first.raw
    assert "found=semantic" in told
    assert "similarity=0.9" in told or "similarity=0.8" in told
    assert (far.raw == first.raw, nothing) == (False, "")


async def test_what_the_header_says_wrongly_is_told(http):
    answer = await http.post("/v1/chat/completions", json=asked(), headers={"backstay-cache": "ttl=soon"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "backstay-cache")
