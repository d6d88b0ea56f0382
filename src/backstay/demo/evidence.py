"""What the demo proves, read back over HTTP: no step repeated, every call audited, what it cost."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from .answering import Followed, gaps
from .client import Client

_SETTLED = 30.0  # seconds for the sweeper to find the calls of a dead process
_STARTED = "model.call.started"
_ENDED = ("model.call.finished", "model.call.abandoned")


@dataclass(frozen=True, slots=True)
class Kill:
    """The moment the worker was killed, and the steps as they stood then."""

    at: datetime
    steps: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Audited:
    """The audit's side of every model call."""

    calls: int
    started: int
    finished: int
    abandoned: int
    wrong: list[str]


async def steps_of(client: Client, run: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = (await client.get(f"/api/runs/{run}"))["steps"]
    return steps


def wrong_in_resume(followed: Followed, kill: Kill, steps: list[dict[str, Any]], answer: dict[str, Any]) -> list[str]:
    """What contradicts "the run resumed and repeated no finished step"; nothing when all is well."""
    wrong = []
    attempts = {step["name"]: step["attempt"] for step in steps}
    finished = {step["name"]: step for step in kill.steps if step["state"] == "completed"}
    for name, before in finished.items():
        now = next(step for step in steps if step["name"] == name)
        if (now["attempt"], now["finished_at"]) != (before["attempt"], before["finished_at"]):
            wrong.append(f"the step {name} had finished before the kill and was run again")
    if "search" not in finished:
        wrong.append("the search was not finished when the worker was killed")
    if attempts.get("model", 0) < 2:
        wrong.append("the model step was not begun again, so the kill hit nothing")
    if attempts.get("store") != 1:
        wrong.append(f"the answer was stored {attempts.get('store', 0)} times")
    if followed.restarts != 1:
        wrong.append(f"the stream told of {followed.restarts} restarts instead of one")
    if gaps(followed):
        wrong.append(f"events came twice, late or not at all: {gaps(followed)[:5]}")
    if answer["text"] != followed.text:
        wrong.append("the stored answer is not the text that was streamed after the restart")
    return wrong


async def settled_calls(client: Client) -> list[dict[str, Any]]:
    """Every model call, once none is open any more."""
    try:
        async with asyncio.timeout(_SETTLED):
            while True:
                calls = await client.every("/api/gateway/calls")
                if all(call["state"] != "open" for call in calls):
                    return calls
                await asyncio.sleep(0.2)
    except TimeoutError:
        return await client.every("/api/gateway/calls")


async def audited(client: Client, calls: list[dict[str, Any]]) -> Audited:
    """Compares the calls with the audit: each has one `started`, and one entry of its end."""
    seen: dict[str, Counter[str]] = {call["id"]: Counter() for call in calls}
    wrong = []
    for action in (_STARTED, *_ENDED):
        for entry in await client.every("/api/audit/entries", action=action):
            if entry["call_id"] not in seen:
                wrong.append(f"the audit has {action} of a call that nobody made: {entry['call_id']}")
                continue
            seen[entry["call_id"]][action] += 1
    for call in calls:
        counts = seen[call["id"]]
        if call["state"] == "open":
            wrong.append(f"call {call['id']} is still open")
        if counts[_STARTED] != 1:
            wrong.append(f"call {call['id']} has {counts[_STARTED]} entries of its start")
        if sum(counts[action] for action in _ENDED) != 1:
            wrong.append(f"call {call['id']} has {sum(counts[action] for action in _ENDED)} entries of its end")
    total = sum(seen.values(), Counter())
    return Audited(len(calls), total[_STARTED], total[_ENDED[0]], total[_ENDED[1]], wrong)


async def spend(client: Client) -> list[dict[str, Any]]:
    """What was used by each feature, dearest first."""
    rows: list[dict[str, Any]] = await client.get("/api/gateway/spend", group="feature")
    return rows


def money(amount: str | Decimal) -> str:
    return f"${Decimal(amount):.6f}"
