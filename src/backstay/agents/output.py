"""The stream of a run: opened for it, told of what its tools do, ended with it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

from ..kernel.clock import Clock
from ..kernel.db import Tx
from ..kernel.principal import Principal
from ..streams import EventType, NewEvent, Stream, StreamEnded, StreamExpired, StreamNotFound, Streams
from ..workflows import RunEnd, RunFailed, RunState
from .models import stream_of

LIFE = timedelta(days=7)
"""How long a run's stream can be read, and how long it waits for a run that is silent: it may wait for a human."""
_ENDS: dict[RunState, EventType] = {RunState.COMPLETED: "done", RunState.CANCELLED: "cancelled"}
assert {"done", "cancelled", "error"} <= set(get_args(EventType))  # noqa: S101 -- holds at import or never


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

    async def end(self, tx: Tx, ended: RunEnd) -> None:
        """The end of the run is the end of its stream, when it has one that is still open."""
        by, stream = Principal.system(ended.tenant, "agents"), stream_of(ended.id)
        try:
            standing = await self._streams.get(by, stream, tx=tx)
        except StreamNotFound:
            return
        if standing.ended or standing.expires_at <= self._clock.now():
            return
        type = _ENDS.get(ended.state, "error")
        facts: Mapping[str, Any] = {"run": str(ended.id)}
        if type == "error":
            facts = RunFailed(ended.id, ended.state, ended.error).problem()
        await self._streams.append(by, stream, [NewEvent.of(type, facts)], tx=tx)
