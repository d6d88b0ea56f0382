"""Workflows that wait for each other: an office sends heralds as its children, who write letters to a collector."""

import asyncio
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from backstay.jobs import Retry
from backstay.workflows import Run, Workflow, Workflows

SOON = Retry(max_attempts=50, base=timedelta(milliseconds=20))


class Collection(BaseModel):
    letters: int


class Errand(BaseModel):
    to: UUID
    first: int
    letters: int


class Office(BaseModel):
    to: UUID
    heralds: int
    letters: int


def correspond(workflows: Workflows) -> tuple[Workflow[Collection, list[int]], Workflow[Office, int]]:
    """Registers them; returns the collector and the office."""

    @workflows.workflow(retry=SOON)
    async def collect(run: Run, wanted: Collection) -> list[int]:
        found = []
        for number in range(wanted.letters):
            found.append(await run.signal("letter", int))
            if number % 4 == 0:
                await run.sleep(timedelta(milliseconds=10))
        return found

    @workflows.workflow(retry=SOON)
    async def herald(run: Run, errand: Errand) -> int:
        async def send(number: int, *, idempotency_key: str) -> None:
            await workflows.send_signal(errand.to, "letter", number, by=run.by, key=idempotency_key)

        for number in range(errand.first, errand.first + errand.letters):
            await run.step(send, number)
        return errand.letters

    @workflows.workflow(retry=SOON)
    async def office(run: Run, work: Office) -> int:
        errands = [
            Errand(to=work.to, first=number * work.letters, letters=work.letters) for number in range(work.heralds)
        ]
        return sum(await asyncio.gather(*(run.child(herald, errand) for errand in errands)))

    return collect, office
