"""How the code of a run waits: it records what it waits for, and leaves. Whoever brings that ends the step's wait."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING

from ..kernel.db import Tx
from . import store, waits_store
from .models import Ended, StepState, Superseded, Waiting

if TYPE_CHECKING:
    from .place import Place
    from .run import Run


async def wait(
    run: "Run",
    place: "Place",
    due: datetime | None,
    *,
    begin: Callable[[Tx], Awaitable[Ended | None]],
    overdue: Callable[[Tx], Awaitable[Ended | None]],
) -> Ended:
    """How the wait at `place` has ended. As long as it has not, this leaves the workflow's code.

    `begin` runs once, in the transaction that records the wait, and may end it at once. `overdue` runs when the time
    until `due` has passed; it returns None when something else ends the wait just now.
    """
    if (standing := run._standing(place)) is not None:
        return Ended(StepState(standing.state), standing.output, standing.error)
    opened = run._recorded.get(place.seq)
    due = opened.due_at if opened else due
    if opened is None or (due is not None and due <= run._clock.now()):
        async with run._recording() as tx:
            if not await store.hold(tx, run._taken, run._db.patience):
                raise run._leave(Superseded())
            ended = await (_begun(run, place, due, tx, begin) if opened is None else overdue(tx))
            if ended and not await waits_store.end_wait(tx, run.tenant, run.id, place.seq, ended, run._clock.now()):
                ended = None  # it was brought in the last moment, and with it the job that reads it
        if ended is not None:
            run._count(place, ended.state)
            return ended
    await asyncio.sleep(0)  # steps that the code starts beside this one take their places first
    raise run._leave(Waiting(due))


async def _begun(
    run: "Run", place: "Place", due: datetime | None, tx: Tx, begin: Callable[[Tx], Awaitable[Ended | None]]
) -> Ended | None:
    await waits_store.open_wait(
        tx, run._taken, place.seq, place.kind, place.name, place.args_hash, due, run._clock.now()
    )
    return await begin(tx)
