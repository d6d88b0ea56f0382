"""How long a put takes while the embedder is well, slow, down or refusing: it should make no difference.

    python benchmarks/content/writes.py [--puts 400]

Starts an embedded Postgres in a temporary folder (fsync on) and a worker in this process. Puts go one by one, each in a
transaction of its own, 20 milliseconds apart; the moods of the embedder take turns, so that other work on the machine
meets all of them. Then the embedder recovers, and it is printed how the backlog drains.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop
from topics import embedded, introduce

from backstay.app import App
from backstay.content import Collection, Content
from backstay.gateway import Embeddings, ProviderRefused, ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.settings import Settings

MOODS = ("well", "slow", "down", "429")
TURNS = 4


class Moody:
    """An embedder for each mood: the model's name says which."""

    def __init__(self) -> None:
        self.recovered = False
        self.requests = self.under_way = self.most = 0

    async def embed(self, by: Any, model: str, inputs: Sequence[str], **_: Any) -> Embeddings:
        self.requests += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self._suffer(model.partition(":")[2])
        finally:
            self.under_way -= 1
        return Embeddings([[1.0, float(len(text))] * 64 for text in inputs], len(inputs), Decimal(0), model)

    async def embedding_cost(self, by: Any, model: str, tokens: int, requests: int) -> Decimal:
        return Decimal(0)

    async def _suffer(self, mood: str) -> None:
        if self.recovered or mood == "well":
            return
        if mood == "slow":
            await asyncio.sleep(2)
        elif mood == "down":
            raise ProviderUnreachable("nobody is there")
        else:
            raise ProviderRefused("slow down", 429, b"{}", {"Retry-After": "2"})


async def puts(collection: Collection, tenant: UUID, numbers: range) -> list[float]:
    seconds = []
    for number in numbers:
        body = {"text": f"A document with the number {number}, of a few words, as they come."}
        start = time.perf_counter()
        await collection.put(str(number), body, tenant=tenant)
        seconds.append(time.perf_counter() - start)
        await asyncio.sleep(0.02)
    return seconds


async def main(count: int, place: Path) -> None:
    async with App(Settings.load(data_dir=place, log_level="error")) as app:
        jobs, embedder, tenant = Jobs(app.db, app.clock, app.settings), Moody(), app.default_tenant
        content = Content(app.db, app.clock, jobs, embedder, app.audit, app.events)
        collections = {mood: content.collection(mood, embedder=f"bench:{mood}") for mood in MOODS}
        stop = asyncio.Event()
        worker = asyncio.create_task(jobs.worker(concurrency=8).run(stop))
        await asyncio.gather(*(puts(collection, tenant, range(-20, 0)) for collection in collections.values()))
        found: dict[str, list[float]] = {mood: [] for mood in MOODS}
        for turn, mood in itertools.product(range(TURNS), MOODS):
            some = count // TURNS
            found[mood] += await puts(collections[mood], tenant, range(turn * some, (turn + 1) * some))
        for mood, seconds in found.items():
            cuts = statistics.quantiles(seconds, n=100)
            waits = (await collections[mood].coverage(tenant)).pending
            print(f"{mood:<6} put p50 {cuts[49] * 1e3:>6.2f} ms   p99 {cuts[98] * 1e3:>7.2f}   {waits:>4} chunks wait")
        embedder.recovered, embedder.requests, embedder.most = True, 0, 0
        start = time.perf_counter()
        wanted = 20 + count // TURNS * TURNS
        for collection in collections.values():
            while await embedded(collection, tenant) < wanted:  # noqa: ASYNC110 -- as a user would look
                await asyncio.sleep(0.05)
        seconds_taken = time.perf_counter() - start
        print(f"drained in {seconds_taken:.1f} s by {embedder.requests} requests, {embedder.most} at once at most")
        stop.set()
        await worker
    print(f"load   {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puts", type=int, default=400, help="in each mood")
    options = parser.parse_args()
    introduce()
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as folder:
        uvloop.run(main(options.puts, Path(folder) / "backstay"))
