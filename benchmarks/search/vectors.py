"""Vector search exactly and by HNSW, and how fast the pipeline embeds when the embedder costs nothing.

    python benchmarks/search/vectors.py [--count 20000] [--dimensions 256] [--queries 200]

Starts an embedded Postgres in a temporary folder. Vectors are drawn around 200 centres, as texts about topics would
lie; queries are drawn likewise. Everything goes through the room: put_many, jobs, the index that the pipeline builds,
search.
"""

import argparse
import asyncio
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import uvloop

from backstay.app import App
from backstay.content import Content
from backstay.gateway import Embeddings
from backstay.jobs import Jobs
from backstay.kernel.settings import Settings


class Topics:
    """An embedder at no cost: the number in a text decides its vector."""

    def __init__(self, count: int, dimensions: int, queries: int) -> None:
        draw = random.Random(11)
        centres = [[draw.gauss(0, 1) for _ in range(dimensions)] for _ in range(200)]
        self._vectors = []
        for _ in range(count + queries):
            values = [value + draw.gauss(0, 0.7) for value in draw.choice(centres)]
            length = math.sqrt(sum(value * value for value in values))
            self._vectors.append([value / length for value in values])

    async def embed(self, by: Any, model: str, inputs: Sequence[str], **_: Any) -> Embeddings:
        vectors = [self._vectors[int(text.rsplit(" ", 1)[1])] for text in inputs]
        return Embeddings(vectors, len(inputs), Decimal(0), model)


async def main(count: int, dimensions: int, queries: int) -> None:
    memory = psutil.virtual_memory().total >> 30
    print(f"machine   {os.cpu_count()} cores, {memory} GB, Python {platform.python_version()}")
    print(f"command   python {' '.join(sys.argv)}")
    topics = Topics(count, dimensions, queries)
    async with AsyncExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="backstay-"))
        app = await stack.enter_async_context(App(Settings.load(data_dir=Path(place), log_level="error")))
        jobs = Jobs(app.db, app.clock, app.settings)
        content = Content(app.db, app.clock, jobs, topics, app.audit, app.events)
        content.indexer.rows = count
        topic, tenant = content.collection("topics", embedder="bench:topics"), app.default_tenant
        start = time.perf_counter()
        for at in range(0, count, 1000):
            await topic.put_many(
                [(str(n), {"text": f"topic {n}"}) for n in range(at, min(at + 1000, count))], tenant=tenant
            )
        print(f"put       {count / (time.perf_counter() - start):,.0f} documents/s, in batches of 1,000, one writer")
        stop, start = asyncio.Event(), time.perf_counter()
        worker = asyncio.create_task(jobs.worker(concurrency=2).run(stop))
        while (await topic.coverage(tenant)).pending:  # noqa: ASYNC110 -- as a user would look
            await asyncio.sleep(0.1)
        print(f"embed     {count / (time.perf_counter() - start):,.0f} chunks/s, embedder at no cost, one worker")
        start = time.perf_counter()
        while not await indexed(app):  # noqa: ASYNC110 -- as a user would look
            await asyncio.sleep(0.1)
        stop.set()
        await worker
        print(f"index     built in {time.perf_counter() - start:.1f} s after the last vector, writers not stopped")
        content.searcher.exact_rows = count
        exact = await search(topic, tenant, range(count, count + queries), "exact")
        content.searcher.exact_rows = 0
        by_index = await search(topic, tenant, range(count, count + queries), "HNSW")
        shared = sum(len(set(a) & set(b)) for a, b in zip(exact, by_index, strict=True))
        print(f"recall@10 {shared / (10 * queries):.4f} of HNSW against exact, under row-level security")


async def indexed(app: App) -> bool:
    async with app.db.system_tx() as tx:
        row = await (await tx.execute("select indexed_at is not null from backstay.space")).fetchone()
    return bool(row and row[0])


async def search(topic: Any, tenant: Any, numbers: range, name: str) -> list[list[str]]:
    found, seconds = [], []
    for number in [*numbers[:20], *numbers]:
        start = time.perf_counter()
        answer = await topic.search(f"query {number}", mode="semantic", k=10, tenant=tenant)
        seconds.append(time.perf_counter() - start)
        found.append([hit.id for hit in answer.hits])
    cuts = statistics.quantiles(seconds[20:], n=100)
    print(f"{name:<9} p50 {cuts[49] * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms a search, documents included")
    return found[20:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Vector search, exact and by HNSW.")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    uvloop.run(main(options.count, options.dimensions, options.queries))
