"""When an embedder may be asked: what one worker is told holds for all, of a tenant and a model, and lasts a restart.

An embedder in trouble rests: for as long as it asked (Retry-After), else longer with every failure. After the rest one
request goes first, and every answer doubles how many may go at once, so that the backlog of an outage does not arrive
in one blow.
"""

from datetime import datetime, timedelta
from uuid import UUID

from ..kernel import telemetry
from ..kernel.db import Tx
from ..kernel.errors import BackstayError
from ..outbound import full_jitter, retry_after
from . import pipeline_store

LONGEST_REQUEST = timedelta(minutes=15)
_FIRST, _LONGEST = 1.0, 300.0  # seconds
_LONGEST_TOLD = 3_600.0
_WIDE = 64  # requests at once; who gets here has recovered
_BUSY = timedelta(seconds=1)
_rests = telemetry.counter("backstay_content_rests_total", "Times an embedder was left alone.", ["why"])


class Resting(Exception):
    """Nobody may ask now; ask again at `until`."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"the embedder is left alone until {until:%H:%M:%S}")
        self.until = until


async def ask(tx: Tx, tenant: UUID, model: str, now: datetime) -> None:
    """Nothing, when a request may be sent that is written in `tx`.

    Raises:
        Resting: not now.
    """
    pace = await pipeline_store.pace(tx, tenant, model)
    if pace is None:
        return
    if pace.rests_until > now:
        raise Resting(pace.rests_until)
    if await pipeline_store.under_way(tx, tenant, model, now - LONGEST_REQUEST) >= pace.width:
        raise Resting(now + _BUSY)


async def failed(tx: Tx, tenant: UUID, model: str, error: BackstayError, now: datetime) -> datetime:
    """Lets the embedder rest after a failure. Returns until when."""
    told = retry_after({name.lower(): value for name, value in (error.headers or {}).items()}, now, most=_LONGEST_TOLD)
    pace = await pipeline_store.pace(tx, tenant, model)
    rests_until, failures = (pace.rests_until, pace.failures) if pace else (now, 0)
    if rests_until <= now:
        failures += 1  # requests that were on their way together fail together, and count once
    wait = told if told is not None else min(_FIRST * 2.0 ** min(failures - 1, 30), _LONGEST)
    wait += full_jitter(0, base=wait / 10)  # tenants that were told the same do not come back together
    until = max(rests_until, now + timedelta(seconds=wait))
    reason = telemetry.scrub(f"{error.code}: {error.detail}")[:2000]
    await pipeline_store.rest(tx, tenant, model, until, failures, reason)
    _rests.labels("failed" if told is None else "told").inc()
    return until


async def answered(tx: Tx, tenant: UUID, model: str, asked_at: datetime) -> None:
    """A request that was sent at `asked_at` was answered."""
    width = await pipeline_store.recover(tx, tenant, model, asked_at)
    if width is not None and width >= _WIDE:
        await pipeline_store.forget_trouble(tx, tenant, model)
