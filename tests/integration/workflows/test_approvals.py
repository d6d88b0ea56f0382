"""Approvals: asked once, decided once, with evidence; the run waits meanwhile and holds nothing."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from backstay.audit import Audit
from backstay.auth import Auth
from backstay.jobs import Jobs
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import BackstayError, Forbidden
from backstay.kernel.principal import Principal
from backstay.workflows import Decision, Run, RunHandle, RunState, Workflows
from backstay.workflows.approvals import ApprovalClosed, ApprovalNotFound, ApprovalState, ApprovalView, EditInvalid

from .conftest import Order


class Refund(BaseModel):
    customer: str
    amount: int
    note: str | None = None


ASKED = Refund(customer="ada", amount=500)


async def rows(db: Database, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with db.system_tx() as tx:
        return await (await tx.execute(query, values)).fetchall()


@pytest.fixture
def decisions() -> list[Decision[Refund]]:
    return []


@pytest.fixture
def options() -> dict[str, Any]:
    """What the workflow hands to `approve`; a test changes it before the run begins."""
    return {}


@pytest.fixture
async def asked(
    workflows: Workflows,
    jobs: Jobs,
    owner: Principal,
    decisions: list[Decision[Refund]],
    options: dict[str, Any],
) -> RunHandle:
    @workflows.workflow
    async def refund(run: Run, order: Order) -> int:
        decision = await run.approve(ASKED, title="Refund a parcel", **options)
        decisions.append(decision)
        return decision.request.amount if decision.approved else 0

    return await refund.start(Order(), by=owner)


async def pending(workflows: Workflows, jobs: Jobs, by: Principal) -> ApprovalView:
    await jobs.worker().run_until_idle()
    [approval] = await workflows.approvals.list(by)
    return approval


async def test_a_run_waits_for_a_decision_holding_no_job_and_goes_on_with_it(
    workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, asked: RunHandle, decisions: list[Any]
) -> None:
    approval = await pending(workflows, jobs, owner)
    assert (approval.title, approval.request) == ("Refund a parcel", ASKED.model_dump())
    assert (approval.run, approval.seq, approval.workflow) == (asked.id, 0, "refund")
    assert (await asked.get()).state == RunState.WAITING
    assert await rows(db, "select count(*) from backstay.job") == [(0,)]
    decided = await workflows.approvals.approve(owner, approval.id, reason="she is right")
    assert (decided.state, decided.decider, decided.reason) == (ApprovalState.APPROVED, "owner", "she is right")
    await jobs.worker().run_until_idle()
    assert await asked.result(1) == 500
    [decision] = decisions
    assert (decision.approved, decision.edited, decision.request, decision.by) == (True, False, ASKED, "owner")
    assert (decision.approval, decision.reason, decision.expired) == (approval.id, "she is right", False)
    assert await workflows.approvals.list(owner) == []
    events = await rows(db, "select type from backstay.outbox where type like 'approval.%%' order by id")
    assert events == [("approval.requested",), ("approval.decided",)]
    entries = await rows(
        db, "select action, run_id from backstay.audit_entry where action like 'approval.%%' order by id"
    )
    assert entries == [("approval.requested", asked.id), ("approval.approved", asked.id)]


async def test_a_denial_reaches_the_run_with_its_reason(
    workflows: Workflows, jobs: Jobs, owner: Principal, asked: RunHandle, decisions: list[Any]
) -> None:
    approval = await pending(workflows, jobs, owner)
    await workflows.approvals.deny(owner, approval.id, reason="too much")
    await jobs.worker().run_until_idle()
    assert await asked.result(1) == 0
    assert (decisions[0].approved, decisions[0].reason) == (False, "too much")


async def test_an_edit_is_an_override_that_names_what_it_overrides(
    workflows: Workflows,
    jobs: Jobs,
    owner: Principal,
    db: Database,
    clock: Any,
    vault: Vault,
    options: dict[str, Any],
    asked: RunHandle,
    decisions: list[Any],
) -> None:
    call = UUID(int=7)
    options["about"] = {"call": str(call), "tool_call": "t1"}
    approval = await pending(workflows, jobs, owner)
    edited = await workflows.approvals.edit(owner, approval.id, {"amount": 50}, reason="only the freight")
    assert (edited.request, edited.edited) == (ASKED.model_dump(), {"amount": 50})
    await jobs.worker().run_until_idle()
    assert await asked.result(1) == 50
    assert (decisions[0].edited, decisions[0].request) == (True, Refund(customer="ada", amount=50))
    [(entry, run, linked, metadata)] = await rows(
        db, "select id, run_id, call_id, metadata from backstay.audit_entry where action = 'approval.overridden'"
    )
    assert (run, linked) == (asked.id, call)
    assert metadata["requested"] == str(approval.entry)
    assert metadata["about"] == {"call": str(call), "tool_call": "t1"}
    assert metadata["fields"] == ["amount"]
    payload = await Audit(db, clock, vault).payload(owner, entry)
    assert payload == {"reason": "only the freight", "before": {"amount": 500}, "after": {"amount": 50}}


async def test_an_edit_of_another_kind_is_refused_and_decides_nothing(
    workflows: Workflows, jobs: Jobs, owner: Principal, asked: RunHandle
) -> None:
    approval = await pending(workflows, jobs, owner)
    for wrong in ({"amount": "50"}, {"amount": True}, {"customer": ["ada"]}, {"amount": 2**70}):
        with pytest.raises(EditInvalid):
            await workflows.approvals.edit(owner, approval.id, wrong, reason="x")
    assert (await workflows.approvals.get(owner, approval.id)).state == ApprovalState.PENDING
    await workflows.approvals.edit(owner, approval.id, {"note": "with love", "amount": 1}, reason="x")
    await jobs.worker().run_until_idle()
    assert await asked.result(1) == 1


async def test_of_many_decisions_at_the_same_time_one_holds_and_the_others_are_told(
    workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, asked: RunHandle, decisions: list[Any]
) -> None:
    approval = await pending(workflows, jobs, owner)
    inbox = workflows.approvals
    outcomes = await asyncio.gather(
        *(inbox.approve(owner, approval.id) for _ in range(4)),
        *(inbox.deny(owner, approval.id, reason="no") for _ in range(4)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, ApprovalClosed)]
    [held] = [outcome for outcome in outcomes if isinstance(outcome, ApprovalView)]
    assert len(refused) == 7
    assert {error.state for error in refused} == {held.state}
    assert "by owner" in refused[0].detail
    await jobs.worker().run_until_idle()
    assert decisions[0].approved == (held.state == ApprovalState.APPROVED)
    assert await rows(db, "select count(*) from backstay.outbox where type = 'approval.decided'") == [(1,)]


async def test_a_decision_rolls_back_with_its_transaction(
    workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, asked: RunHandle
) -> None:
    approval = await pending(workflows, jobs, owner)

    async def rolled_back() -> None:
        async with db.tenant_tx(owner.tenant) as tx:
            await workflows.approvals.approve(owner, approval.id, tx=tx)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await rolled_back()
    await jobs.worker().run_until_idle()
    assert (await workflows.approvals.get(owner, approval.id)).state == ApprovalState.PENDING
    assert (await asked.get()).state == RunState.WAITING
    assert await rows(db, "select count(*) from backstay.job") == [(0,)]


async def test_only_the_role_and_the_permission_demanded_may_decide(
    workflows: Workflows, jobs: Jobs, owner: Principal, auth: Auth, options: dict[str, Any], asked: RunHandle
) -> None:
    options["role"], options["permission"] = "approver", "approvals:write"
    approval = await pending(workflows, jobs, owner)
    keys = {role: await auth.create_key(owner, role, role) for role in ("viewer", "admin", "approver")}
    people = {role: await auth.authenticate(key.secret) for role, key in keys.items()}
    for role, why in (("viewer", "approvals:write"), ("admin", "role approver")):
        with pytest.raises(Forbidden, match=why):
            await workflows.approvals.approve(people[role], approval.id)
    assert [item.id for item in await workflows.approvals.list(people["viewer"])] == [approval.id]
    assert (await workflows.approvals.approve(people["approver"], approval.id)).decider == "approver"


async def test_a_permission_of_your_own_can_be_demanded(
    workflows: Workflows, jobs: Jobs, owner: Principal, options: dict[str, Any], asked: RunHandle
) -> None:
    options["permission"] = "refunds:approve"
    approval = await pending(workflows, jobs, owner)
    clerk = Principal(owner.tenant, UUID(int=3), "clerk", frozenset({"approvals:*"}))
    with pytest.raises(Forbidden, match="refunds:approve"):
        await workflows.approvals.approve(clerk, approval.id)
    chief = Principal(owner.tenant, UUID(int=4), "chief", frozenset({"approvals:*", "refunds:approve"}))
    assert (await workflows.approvals.approve(chief, approval.id)).decider == "chief"


async def test_another_tenant_sees_nothing_and_decides_nothing(
    workflows: Workflows, jobs: Jobs, owner: Principal, other_owner: Principal, asked: RunHandle
) -> None:
    approval = await pending(workflows, jobs, owner)
    inbox = workflows.approvals
    assert await inbox.list(other_owner, state=None) == []
    for attempt in (
        inbox.get(other_owner, approval.id),
        inbox.approve(other_owner, approval.id),
        inbox.deny(other_owner, approval.id, reason="x"),
        inbox.edit(other_owner, approval.id, {"amount": 1}, reason="x"),
    ):
        with pytest.raises(ApprovalNotFound):
            await attempt
    assert (await inbox.get(owner, approval.id)).state == ApprovalState.PENDING


@pytest.mark.parametrize("default", ["approve", "deny"])
async def test_when_nobody_decides_in_time_the_default_holds(
    slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal, db: Database, default: Any
) -> None:
    workflows, jobs = slow_clock
    decisions: list[Decision[dict[str, Any]]] = []

    @workflows.workflow
    async def lonely(run: Run, order: Order) -> bool:
        decisions.append(await run.approve({"amount": 5}, timeout=timedelta(hours=4), default=default))
        return decisions[0].approved

    handle = await lonely.start(Order(), by=owner)
    approval = await pending(workflows, jobs, owner)
    assert approval.due_at == manual_clock.now() + timedelta(hours=4)
    assert await rows(db, "select state, run_at from backstay.job") == [("scheduled", approval.due_at)]
    manual_clock.advance(timedelta(hours=4) - timedelta(seconds=1))
    await jobs.worker().run_until_idle()
    assert (await handle.get()).state == RunState.WAITING
    manual_clock.advance(timedelta(seconds=1))
    with pytest.raises(ApprovalClosed, match="expired"):
        await workflows.approvals.approve(owner, approval.id)
    await jobs.worker().run_until_idle()
    assert await handle.result(1) is (default == "approve")
    assert (decisions[0].expired, decisions[0].by, decisions[0].request) == (True, None, {"amount": 5})
    assert (await workflows.approvals.get(owner, approval.id)).state == ApprovalState.EXPIRED
    assert await rows(db, "select count(*) from backstay.outbox where type = 'approval.expired'") == [(1,)]
    assert await rows(db, "select count(*) from backstay.audit_entry where action = 'approval.expired'") == [(1,)]


async def test_a_decision_in_time_leaves_no_timer_that_does_anything(
    slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal
) -> None:
    workflows, jobs = slow_clock

    @workflows.workflow
    async def twice(run: Run, order: Order) -> list[bool]:
        first = await run.approve({"n": 1}, timeout=timedelta(hours=1))
        second = await run.approve({"n": 2}, timeout=timedelta(hours=9))
        return [first.approved, second.approved]

    handle = await twice.start(Order(), by=owner)
    first = await pending(workflows, jobs, owner)
    await workflows.approvals.approve(owner, first.id)
    second = await pending(workflows, jobs, owner)
    manual_clock.advance(timedelta(hours=8))
    await jobs.worker().run_until_idle()
    assert (await handle.get()).state == RunState.WAITING
    await workflows.approvals.approve(owner, second.id)
    await jobs.worker().run_until_idle()
    assert await handle.result(1) == [True, True]


async def test_several_requests_at_once_are_decided_in_any_order(
    workflows: Workflows, jobs: Jobs, owner: Principal
) -> None:
    @workflows.workflow
    async def committee(run: Run, order: Order) -> list[str | None]:
        found = await asyncio.gather(*(run.approve({"seat": seat}) for seat in range(3)))
        return [decision.reason for decision in found]

    handle = await committee.start(Order(), by=owner)
    await jobs.worker().run_until_idle()
    seats = await workflows.approvals.list(owner)
    assert sorted(item.request["seat"] for item in seats) == [0, 1, 2]
    for item in seats:
        assert (await handle.get()).state == RunState.WAITING
        await workflows.approvals.approve(owner, item.id, reason=f"seat {item.request['seat']}")
        await jobs.worker().run_until_idle()
    assert await handle.result(1) == ["seat 0", "seat 1", "seat 2"]


async def test_code_that_eats_the_signal_to_leave_goes_on_waiting_all_the_same(
    workflows: Workflows, jobs: Jobs, owner: Principal
) -> None:
    @workflows.workflow
    async def greedy(run: Run, order: Order) -> str:
        found = await asyncio.gather(run.approve({"a": 1}), run.approve({"b": 2}), return_exceptions=True)
        return ", ".join(type(item).__name__ for item in found)

    @workflows.workflow
    async def grouped(run: Run, order: Order) -> str:
        async with asyncio.TaskGroup() as group:
            decision = group.create_task(run.approve({"c": 3}))
        return str(decision.result().approved)

    handles = [await greedy.start(Order(), by=owner), await grouped.start(Order(), by=owner)]
    await jobs.worker().run_until_idle()
    assert [(await handle.get()).state for handle in handles] == [RunState.WAITING] * 2
    for item in await workflows.approvals.list(owner):
        await workflows.approvals.approve(owner, item.id)
        await jobs.worker().run_until_idle()
    assert [await handle.result(1) for handle in handles] == ["Decision, Decision", "True"]


async def test_a_request_that_cannot_be_stored_fails_the_step_and_asks_nobody(
    workflows: Workflows, jobs: Jobs, owner: Principal
) -> None:
    odd_ones: list[dict[str, Any]] = [
        {"request": {"text": "a\0b"}},
        {"request": {}, "title": "a\0b"},
        {"request": {}, "about": {"a": "\ud800"}},
    ]

    @workflows.workflow
    async def odd(run: Run, order: Order) -> None:
        await run.approve(**odd_ones[order.number])

    for number in range(len(odd_ones)):
        handle = await odd.start(Order(number=number), by=owner)
        await jobs.worker().run_until_idle()
        run = await handle.get()
        assert (run.state, "StepFailed" in (run.error or "")) == (RunState.FAILED, True), run.error
    assert await workflows.approvals.list(owner, state=None) == []


async def test_changed_code_does_not_take_another_request_for_the_one_that_was_approved(
    workflows: Workflows, jobs: Jobs, owner: Principal
) -> None:
    amount = 5

    @workflows.workflow
    async def sly(run: Run, order: Order) -> None:
        await run.approve({"amount": amount})

    handle = await sly.start(Order(), by=owner)
    approval = await pending(workflows, jobs, owner)
    amount = 5_000
    await workflows.approvals.approve(owner, approval.id)
    await jobs.worker().run_until_idle()
    assert (await handle.get()).state == RunState.NONDETERMINISTIC


def test_errors_of_the_inbox_are_of_the_tree() -> None:
    assert issubclass(ApprovalClosed, BackstayError)
    assert ApprovalClosed.status == 409
