"""In process: one pipeline for plain, streamed and embedding calls, settled and recorded whatever happens."""

from decimal import Decimal

import pytest

from backstay.gateway import BudgetExceeded, Gateway, ModelNotFound
from backstay.kernel import telemetry

HELLO = {"model": "sim:echo", "messages": [{"role": "user", "content": "hello there my friend"}]}


async def test_a_completion_is_answered_recorded_and_priced(gateway, owner, rows):
    answer = await gateway.complete(owner, HELLO | {"model": "sim:echo?price=0.10"}, feature="greeting", user="ada")
    assert answer["choices"][0]["message"]["content"] == "hello there my friend"
    assert answer["model"] == "sim:echo"
    assert answer.cost == Decimal("0.10")
    (call,) = await rows("select * from backstay.call")
    assert (call["state"], call["outcome"], call["cost"]) == ("finished", "ok", Decimal("0.10"))
    (line,) = await rows("select * from backstay.ledger")
    assert (line["feature"], line["end_user"], line["output_tokens"]) == ("greeting", "ada", 4)
    actions = await rows(
        "select action, call_id, outcome from backstay.audit_entry where call_id is not null order by id"
    )
    assert [(a["action"], a["outcome"]) for a in actions] == [
        ("model.call.started", "ok"),
        ("model.call.finished", "ok"),
    ]


async def test_a_stream_is_the_same_call_in_pieces(gateway, owner, rows):
    chunks = [chunk async for chunk in gateway.stream(owner, HELLO, feature="greeting")]
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert said == "hello there my friend"
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert [r["state"] for r in await rows("select state from backstay.call")] == ["finished"]


async def test_embeddings_come_in_the_order_of_the_texts(gateway, owner):
    found = await gateway.embed(owner, "sim:dev-hash", ["a cat", "a dog", "a cat"], feature="search")
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]
    assert len(found.vectors[0]) == 256
    assert found.model == "sim:dev-hash"


async def test_a_hard_budget_refuses_what_does_not_fit_and_the_refusal_costs_nothing(gateway, owner, rows):
    await gateway.budgets.create(owner, "tenant", None, Decimal("0.25"), "day")
    asked = HELLO | {"model": "sim:echo?price=0.10"}
    for _ in range(2):
        await gateway.complete(owner, asked, feature="f")
    with pytest.raises(BudgetExceeded, match=r"0.25 USD a day.*resets at"):
        await gateway.complete(owner, asked, feature="f")
    (budget,) = await gateway.budgets.list(owner)
    assert (budget.spent, budget.held) == (Decimal("0.20"), 0)
    assert await rows("select * from backstay.hold") == []
    assert len(await rows("select * from backstay.call")) == 2


async def test_the_settlement_of_a_call_is_timed(gateway, owner):
    def samples():
        return telemetry.registry.get_sample_value("backstay_query_seconds_count", {"query": "gateway.settle"})

    before = samples()
    await gateway.complete(owner, HELLO, feature="f")
    assert samples() == before + 1


async def test_an_unknown_model_is_not_found(gateway: Gateway, owner):
    for name in ("nobody:gpt", "sim:nothing"):
        with pytest.raises(ModelNotFound):
            await gateway.complete(owner, HELLO | {"model": name}, feature="f")
