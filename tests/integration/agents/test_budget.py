"""A run with a budget: it binds the run and its children together, over all their agents."""

import asyncio
import json
from decimal import Decimal

import pytest
from pydantic import BaseModel

from backstay.kernel.errors import ConfigurationError
from backstay.workflows import Run, RunFailed, StepFailed

TEN_CENTS = "sim:script?price=0.10"


class Work(BaseModel):
    parts: int = 1


@pytest.fixture
def tree(app):
    """A run whose children each have an agent answer; it returns how many of them could."""
    desk = app.agent("desk", model=TEN_CENTS, instructions=json.dumps({"script": [{"content": "Done."}]}))

    @app.workflow
    async def part(run: Run, work: Work) -> str:
        return await desk.reply(run, "Work.")

    @app.workflow
    async def whole(run: Run, work: Work) -> int:
        async def one(number: int) -> int:
            try:
                await run.child(part, Work(parts=number))
            except StepFailed as failure:
                return 0 if "the budget of run" in failure.error else 100
            return 1

        return sum(await asyncio.gather(*map(one, range(work.parts))))

    return whole


async def test_children_that_run_at_once_spend_exactly_what_the_run_above_them_has(app, owner, tree, worker):
    run = await tree.start(Work(parts=8), by=owner, budget="0.50 USD")
    assert await run.result(timeout=30) == 5
    spent = await app.gateway.spend(owner, "feature")
    assert [(row.name, row.cost) for row in spent] == [("desk", Decimal("0.50"))]
    assert await app.gateway.budgets.list(owner) == []  # closed with the run
    entries = await app.audit.entries(owner, run=run.id, action="budget.closed")
    assert [Decimal(entry.metadata["spent"]) for entry in entries] == [Decimal("0.50")]


async def test_an_agent_whose_budget_is_used_up_fails_with_the_budget_as_the_reason(app, owner, client, worker):
    circle = [{"tool": "look", "arguments": {"at": str(number)}} for number in range(9)]
    app.agent("looker", model=TEN_CENTS, tools=[look], instructions=json.dumps({"script": circle}))
    answer = await client.post("/api/agents/looker/runs", json={"text": "Look.", "budget": "0.25 USD"})
    run = answer.json()["run"]
    with pytest.raises(RunFailed, match=f"the budget of run {run}, 0.25 USD in total, has no room"):
        await app.workflows.result(owner, run, timeout=20)
    calls = await app.gateway.calls(owner, run=run)
    assert [call.cost for call in calls] == [Decimal("0.10")] * 2


async def test_a_budget_that_is_none_starts_nothing(app, owner, client, tree):
    for budget in ("fifty cents", "0.50 USD/day"):
        with pytest.raises(ConfigurationError):
            await tree.start(Work(), by=owner, budget=budget)
        wrong = await client.post("/api/runs", json={"workflow": "whole", "budget": budget})
        assert wrong.status_code == 422
    assert await app.workflows.list(owner) == []


async def look(at: str) -> str:
    return at
