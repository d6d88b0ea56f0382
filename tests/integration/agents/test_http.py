import asyncio

import pytest

from backstay.kernel.ids import new_id

BODY = {"question": "When does the lease run out?", "collection": "pages", "model": "sim:extract"}


async def test_a_question_is_accepted_streamed_and_answered(app, client, library, worker):
    accepted = await client.post("/api/agents/ask", json=BODY)
    assert accepted.status_code == 202, accepted.text
    ask = accepted.json()
    async with asyncio.timeout(20):
        body = (await client.get(ask["events_url"])).text
    assert body.count("event: done\n") == 1
    answer = (await client.get(ask["answer_url"])).json()
    assert "fifteen seconds" in answer["text"]
    assert answer["sources"][0]["document"] == "leases"
    assert answer["cost"] == "0"


async def test_a_question_repeated_with_its_idempotency_key_runs_once(app, client, owner, library):
    answers = [await client.post("/api/agents/ask", json=BODY, headers={"idempotency-key": "q"}) for _ in range(3)]
    assert len({answer.json()["run"] for answer in answers}) == 1
    assert len(await app.workflows.list(owner)) == 1


async def test_there_is_no_answer_before_the_run_has_stored_one(client, library):
    ask = (await client.post("/api/agents/ask", json=BODY)).json()
    early = await client.get(ask["answer_url"])
    assert (early.status_code, early.json()["code"]) == (404, "answer_not_found")
    assert (await client.get(f"/api/agents/answers/{new_id()}")).status_code == 404


async def test_another_tenant_sees_neither_answer_nor_stream(client, other_client, library, worker):
    ask = (await client.post("/api/agents/ask", json=BODY)).json()
    async with asyncio.timeout(20):
        await client.get(ask["events_url"])
    assert (await other_client.get(ask["answer_url"])).status_code == 404
    assert (await other_client.get(ask["events_url"])).status_code == 404


@pytest.mark.parametrize("change", [{"question": ""}, {"k": 0}, {"k": 51}, {"max_tokens": 0}, {"mode": "x"}])
async def test_a_body_that_makes_no_sense_is_422(client, change):
    assert (await client.post("/api/agents/ask", json=BODY | change)).status_code == 422
