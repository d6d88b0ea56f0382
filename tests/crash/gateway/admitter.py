"""A process that only admits, extends and settles, for tests of exactness: no provider, no prices.

Reads its orders from the first line of stdin, prints what came of them. Orders: {"database_url", "master_key",
"tenant", "id", "key", "calls", "serial", "usd", "tokens", "used_tokens", "grain", "hang"}. Serial calls come one after
the other. With a grain, each call is extended by it until a budget refuses, and uses all that it holds. One that hangs
never ends.
"""

import asyncio
import json
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from backstay.audit import Audit
from backstay.events import Events
from backstay.gateway import BudgetExceeded, RateLimited, Usage
from backstay.gateway.admission import Admission
from backstay.gateway.models import Attempt, Reservation, Settlement, Tags
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.ids import new_id
from backstay.kernel.settings import Settings


async def main() -> None:
    orders = json.loads(sys.stdin.readline())
    settings = Settings.load(
        database_url=orders["database_url"], master_key=orders["master_key"], data_dir=Path(orders["data_dir"])
    )
    clock, vault = SystemClock(), Vault.of(settings)
    async with Database(settings.database_url, settings) as db:
        admission = Admission(
            db, clock, Audit(db, clock, vault), Events(db, clock), new_id(), timedelta(seconds=settings.lease_seconds)
        )
        await admission.beat()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if orders.get("serial"):
            results = [await _call(admission, clock, orders) for _ in range(orders["calls"])]
        else:
            results = await asyncio.gather(*(_call(admission, clock, orders) for _ in range(orders["calls"])))
        print(json.dumps({word: results.count(word) for word in set(results)}), flush=True)
        await admission.stop()


async def _call(admission: Admission, clock: SystemClock, orders: dict) -> str:
    tags = Tags(UUID(orders["tenant"]), UUID(orders["id"]), "admitter", "race", None, UUID(orders["key"]))
    usd, tokens = Decimal(orders.get("usd", "0")), orders.get("tokens", 0)
    reservation = Reservation(new_id(), tags, "test", "m", "chat", False, usd, {}, clock.now(), tokens)
    try:
        call = await admission.admit(reservation)
    except BudgetExceeded:
        return "refused"
    except RateLimited:
        return "limited"
    if orders.get("hang"):
        await asyncio.Event().wait()
    if "grain" in orders:
        try:
            while True:
                await admission.extend(call, Decimal(orders["grain"]))
                usd += Decimal(orders["grain"])
        except BudgetExceeded:
            pass
    used = orders.get("used_tokens", tokens)
    attempt = Attempt("test", "m", "ok", Usage(used // 2, used - used // 2), usd, 0.1)
    await admission.settle(Settlement(call, "ok", (attempt,), {}, clock.now()))
    return "ok"


asyncio.run(main())
