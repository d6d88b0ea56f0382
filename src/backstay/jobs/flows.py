"""What a worker remembers from one claim to the next: what each tenant had, where the scan ended, what lies behind it.

A flow is the jobs of one tenant, name and limit key in a queue. Nothing here decides what may run: forgetting all of it
costs a little fairness or a longer scan, and no job.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from . import metrics
from .models import Claimed, Memory, Turn

_REMEMBERED = 256  # flows whose last claim is kept
_COSTLY = 4_000  # index entries read in vain
_SECONDS_AN_ENTRY = 20e-6  # ten times what one costs: looking for what was missed takes a tenth of the time
_LONGEST = 30.0  # seconds between two whole scans


class _Flow(NamedTuple):
    queue: str
    tenant: UUID
    name: str
    limit_key: str


class Flows:
    """One worker's memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: OrderedDict[_Flow, tuple[int, UUID]] = OrderedDict()
        self._begun: dict[str, Sequence[Any]] = {}
        self._had: dict[tuple[str, UUID], float] = {}
        self._whole_at = 0.0
        self._looks = 0

    def memory(self) -> Memory:
        """What the next claim is told."""
        behind = self._last.items() if self._clock() < self._whole_at else ()
        return Memory(
            _array({**flow._asdict(), "tenant_id": flow.tenant, "rank": rank, "id": id} for flow, (rank, id) in behind),
            _array(
                dict(zip(("queue", "tenant_id", "name", "limit_key"), place, strict=True))
                for place in self._begun.values()
            ),
            _array({"queue": queue, "tenant_id": tenant, "jobs": jobs} for (queue, tenant), jobs in self._had.items()),
        )

    def learn(self, turn: Turn) -> None:
        """Takes in what a claim brought."""
        self._move(turn.claimed, turn.flows)
        self._begun = {str(place[0]): place for place in turn.ended}
        self._share(turn)
        if self._clock() >= self._whole_at and (pause := pause_after(turn.read, len(turn.claimed))):
            # The next claims begin behind what was claimed. A job that came to lie before that place (an older one, or
            # of a higher priority) is found by the next whole scan.
            metrics.whole_scans.inc()
            self._whole_at = self._clock() + pause

    def goes_on(self, turn: Turn, room: int) -> bool:
        """Whether there may be more to claim at once: the room was filled, a tenant had less than its share of it, or
        the scan saw its number of flows and not the others."""
        claimed = len(turn.claimed)
        self._looks = 0 if claimed or not turn.ended else self._looks + 1
        return claimed >= room or (claimed > 0 and turn.flows > 1) or 0 < self._looks <= 16

    def _move(self, claimed: Sequence[Claimed], flows: int) -> None:
        # Claims come in order, so of one flow's the last lies furthest in the index.
        for job in claimed[-1:] if flows == 1 else claimed:
            flow = _Flow(job.queue, job.tenant, job.name, job.limit_key)
            self._last[flow] = (-job.priority, job.id)
            self._last.move_to_end(flow)
        while len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)

    def _share(self, turn: Turn) -> None:
        """Start-time fair queueing: time in a queue is the tag of the job that was started last; a tenant that was
        away has nothing saved up."""
        if not turn.weights:
            self._had = {}
            return
        weights = {(queue, UUID(tenant)): weight for queue, tenant, weight in turn.weights}
        taken = Counter((job.queue, job.tenant) for job in turn.claimed)
        had = {whose: self._had.get(whose, 0.0) for whose in weights}
        now: dict[str, float] = {}
        for whose, jobs in taken.items():
            weight = weights.get(whose, 1.0)
            began = had.get(whose, 0.0)
            had[whose] = began + jobs / weight
            now[whose[0]] = max(now.get(whose[0], 0.0), began + (jobs - 1) / weight)
        self._had = {whose: rest for whose, tag in had.items() if (rest := tag - now.get(whose[0], 0.0)) > 0}


def pause_after(read: int, found: int) -> float:
    """Seconds until a scan that read so many entries and found so few is made again as a whole.

    While an old snapshot is held somewhere, the entries of jobs that are gone stay in the indexes and are read again
    by each scan from the beginning.
    """
    return min(_LONGEST, read * _SECONDS_AN_ENTRY) if read > _COSTLY + 20 * found else 0.0


def _array(rows: Any) -> str:
    return orjson.dumps(list(rows)).decode()
