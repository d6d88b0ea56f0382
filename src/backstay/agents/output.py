"""The stream of a run: opened for it, told of what its tools do, ended with it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson

from ..kernel.clock import Clock
from ..kernel.db import Tx
from ..kernel.principal import Principal
from ..streams import EventType, NewEvent, Stream, StreamEnded, StreamExpired, StreamNotFound, Streams
from ..workflows import RunEnd, RunFailed, RunState
from .models import stream_of
from .texts import bounded
from .turn import Call

LIFE = timedelta(days=7)
"""How long a run's stream can be read, and how long it waits for a run that is silent: it may wait for a human."""
_MOST_ARGUMENTS = 32_000  # characters of a call's arguments that an event tells
_ENDS: dict[RunState, EventType] = {RunState.COMPLETED: "done", RunState.CANCELLED: "cancelled"}


class Output:
    """Streams of runs."""

    def __init__(self, streams: Streams, clock: Clock) -> None:
        self._streams, self._clock = streams, clock

    async def open(self, by: Principal, run: UUID, tx: Tx | None = None) -> Stream:
        """The run's stream; the one that stands when there is one."""
        return await self._streams.create(by, id=stream_of(run), run=run, expires_in=LIFE, patience=LIFE, tx=tx)

    async def tell(self, by: Principal, run: UUID, type: EventType, data: Mapping[str, Any]) -> None:
        """Adds an event, unless the stream is over: a run does not depend on its readers."""
        try:
            await self._streams.append(by, stream_of(run), [NewEvent.of(type, data)])
        except (StreamEnded, StreamExpired, StreamNotFound):
            return

    async def ask(self, tx: Tx, by: Principal, run: UUID, agent: str, calls: Sequence[Call]) -> None:
        """Tells that a human is to decide about these calls, with the step that says so."""
        if await self._is_open(tx, by, stream_of(run)):
            about = {"agent": agent, "run": str(run)}
            events = [NewEvent.of("approval.requested", call_told(call) | about) for call in calls]
            await self._streams.append(by, stream_of(run), events, tx=tx)

    async def end(self, tx: Tx, ended: RunEnd) -> None:
        """The end of the run is the end of its stream, when it has one that is still open."""
        by, stream = Principal.system(ended.tenant, "agents"), stream_of(ended.id)
        if not await self._is_open(tx, by, stream):
            return
        type = _ENDS.get(ended.state, "error")
        facts: Mapping[str, Any] = {"run": str(ended.id)}
        if type == "error":
            facts = RunFailed(ended.id, ended.state, ended.error).problem()
        await self._streams.append(by, stream, [NewEvent.of(type, facts)], tx=tx)

    async def _is_open(self, tx: Tx, by: Principal, stream: UUID) -> bool:
        try:
            standing = await self._streams.get(by, stream, tx=tx)
        except StreamNotFound:
            return False
        return not standing.ended and standing.expires_at > self._clock.now()


def call_told(call: Call) -> dict[str, Any]:
    """The call as an event: arguments as an object where they are one, and none too large."""
    arguments: Any = bounded(call.arguments, _MOST_ARGUMENTS)
    with suppress(orjson.JSONDecodeError):
        arguments = orjson.loads(arguments or "{}")
    return {"id": call.id, "name": call.name, "arguments": arguments}
