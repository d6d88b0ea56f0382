"""A gateway process of its own, for tests: reads its orders from the first line of stdin, prints what came of them.

Orders: {"database_url", "master_key", "base_url", "principal": {...}, "model", "calls", "stream", "prefix",
"patient", "surface"}. A patient one comes back as often as it is limited.
"""

import asyncio
import json
import sys
from pathlib import Path
from uuid import UUID

from backstay.audit import Audit
from backstay.events import Events
from backstay.gateway import BudgetExceeded, Gateway, RateLimited
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

BODIES = {
    "openai-chat": lambda text: {"messages": [{"role": "user", "content": text}]},
    "openai-responses": lambda text: {"input": text},
    "anthropic": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 50},
    "gemini": lambda text: {"contents": [{"role": "user", "parts": [{"text": text}]}]},
    "openai-embed": lambda text: {"input": text},
}
KINDS = {"openai-embed": "embed"}


async def main() -> None:
    orders = json.loads(sys.stdin.readline())
    settings = Settings.load(
        database_url=orders["database_url"],
        master_key=orders["master_key"],
        data_dir=Path(orders["data_dir"]),
        openai_base_url=orders.get("base_url"),
        unknown_price="1",
        lease_seconds=1.0,
    )
    by = Principal(UUID(orders["tenant"]), UUID(orders["id"]), "caller", frozenset({"*"}), key=UUID(orders["key"]))
    clock, vault = SystemClock(), Vault.of(settings)
    async with Database(settings.database_url, settings) as db:
        gateway = Gateway(db, clock, vault, Audit(db, clock, vault), Events(db, clock), settings)
        await gateway.start()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        results = await asyncio.gather(*(_call(gateway, by, orders, number) for number in range(orders["calls"])))
        print(json.dumps({word: results.count(word) for word in set(results)}), flush=True)
        await gateway.stop()


async def _call(gateway: Gateway, by: Principal, orders: dict, number: int) -> str:
    surface, said = orders.get("surface", "openai-chat"), f"{orders.get('prefix', 'call')}-{number}"
    body = {"model": orders["model"], "stream": bool(orders.get("stream")), **BODIES[surface](said)}
    while True:
        try:
            order = await gateway.order(by, surface, KINDS.get(surface, "chat"), body, feature="race")
            if orders.get("stream"):
                async for _ in gateway.chunks(order):
                    pass
            else:
                await gateway.answer(order)
        except BudgetExceeded:
            return "refused"
        except RateLimited:
            if not orders.get("patient"):
                return "limited"
            await asyncio.sleep(0.05)
        else:
            return "ok"


asyncio.run(main())
