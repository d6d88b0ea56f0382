"""A workflow for the crash tests: it books side by side, fails at its last step, and undoes what it booked."""

import asyncio
import random
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from backstay.jobs import Retry
from backstay.kernel.errors import Invalid
from backstay.workflows import Run, Workflow, Workflows

BOOKINGS = 3


class Journey(BaseModel):
    number: int


def travel(workflows: Workflows, outside: Path | None) -> Workflow[Journey, None]:
    """`outside` is the file in which each call writes its name and its idempotency key."""

    async def call(what: str, idempotency_key: str) -> None:
        assert outside is not None
        with outside.open("ab", buffering=0) as file:  # one write at the end of the file: lines do not mix
            file.write(f"{what} {idempotency_key}\n".encode())
        await asyncio.sleep(random.uniform(0, 0.02))

    async def book(number: int, *, idempotency_key: str) -> int:
        await call("book", idempotency_key)
        return number

    async def cancel(number: int, *, idempotency_key: str) -> None:
        await call("cancel", idempotency_key)

    async def board() -> None:
        raise Invalid("the train has left")

    @workflows.workflow(name="travel", retry=Retry(max_attempts=50, base=timedelta(milliseconds=20)))
    async def travel(run: Run, journey: Journey) -> None:
        for number in range(BOOKINGS):
            await run.on_failure(cancel, number)
        booked = await run.gather(*(run.step(book, number) for number in range(BOOKINGS)))
        assert booked == list(range(BOOKINGS))
        await run.emit("journey.booked", {"number": journey.number})
        await run.step(board)

    return travel
