"""Text search at size: BM25 over made-up text of 100,000 or 1,000,000 chunks in one tenant's one collection.

    python benchmarks/content/text.py [--chunks 100000] [--queries 200] [--place FOLDER]

Loads the collection by COPY (see corpus.py), has the room's own job make the posting lists, and searches through the
room: `collection.search(mode="text", k=10)`, documents included. Then writes through the room while a worker folds, and
searches once more. With --place the data directory stays, and a second run finds the collection there.
`CPU` is what this process and its database used for one search, which other work on the machine hardly changes.
"""

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import uvloop
from corpus import Corpus, body, load, text

from backstay.app import App
from backstay.content import Collection, Content
from backstay.kernel.settings import Settings

NAME = "texts"


def questions(count: int) -> dict[str, tuple[list[str], dict[str, Any] | None]]:
    """By kind: queries and filter. Words are drawn as they occur, so most queries have a common one."""
    corpus, draw = Corpus(99), random.Random(3)
    usual = [text(corpus.ranks(4)) for _ in range(count)]
    return {
        "1 word": ([text(corpus.ranks(1)) for _ in range(count)], None),
        "4 words": (usual, None),
        "10 words": ([text(corpus.ranks(10)) for _ in range(count)], None),
        "2 rare words": ([text(draw.choices(range(20_000, 400_000), k=2)) for _ in range(count)], None),
        "2 words of 30 % and more": ([text(draw.sample(range(15), 2)) for _ in range(count // 2)], None),
        "10 words of 30 % and more": ([text(draw.sample(range(15), 10)) for _ in range(count // 2)], None),
        "words that are nowhere": (["zeppelin airship"] * (count // 4), None),
        "4 words, filter 1 in 10": (usual[: count // 2], {"tenth": 3}),
        "4 words, filter 1 in 100": (usual[: count // 2], {"hundredth": 3}),
        "4 words, filter 1 in 10,000": (usual[:8], {"lot": 77}),
    }


class Spent:
    """CPU seconds of this process and of the database's processes."""

    def __init__(self, place: Path) -> None:
        self._server = psutil.Process(int((place / "pg" / "data" / "postmaster.pid").read_text().split()[0]))

    def __call__(self) -> float:
        processes = [psutil.Process(), *self._server.children()]
        return sum(sum(process.cpu_times()[:2]) for process in processes)


async def measure(
    kind: str, collection: Collection, tenant: UUID, asked: Sequence[str], where: Mapping[str, Any] | None, spent: Spent
) -> None:
    for query in asked[:10]:
        await collection.search(query, mode="text", where=where, tenant=tenant)
    seconds, before = [], spent()
    for query in asked:
        start = time.perf_counter()
        await collection.search(query, mode="text", where=where, tenant=tenant)
        seconds.append(time.perf_counter() - start)
    cpu = (spent() - before) / len(asked)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    print(f"{kind:<30}{cuts[49] * 1e3:>9.1f}{cuts[98] * 1e3:>9.1f}{cpu * 1e3:>9.1f}", flush=True)


async def write(app: App, collection: Collection, tenant: UUID, count: int) -> None:
    """Puts documents one by one and by hundreds, with a worker beside that folds."""
    corpus, stop, run = Corpus(int(time.time())), asyncio.Event(), f"{time.time():.0f}"
    worker = asyncio.create_task(app.jobs.worker(["content"], concurrency=2).run(stop))
    for size in (1, 100):
        start = time.perf_counter()
        for at in range(0, count, size):
            words = [text(ranks) for ranks in corpus.texts(size)]
            documents = [(f"{run}-{size}-{n}", body(n, said)) for n, said in enumerate(words, at)]
            await collection.put_many(documents, tenant=tenant)
        print(f"put       {count / (time.perf_counter() - start):,.0f} documents/s, {size} in each call, one writer")
    while await counted(app, tenant, "bm_delta"):  # noqa: ASYNC110 -- the database does not tell
        await asyncio.sleep(0.1)
    stop.set()
    await worker


async def counted(app: App, tenant: UUID, table: str) -> int:
    async with app.db.tenant_tx(tenant) as tx:
        row = await (await tx.execute(f"select count(*) from backstay.{table}")).fetchone()
    return int(row[0]) if row else 0


async def main(chunks: int, count: int, place: Path) -> None:
    load_before = os.getloadavg()[0]
    memory = psutil.virtual_memory().total >> 30
    print(f"machine   {os.cpu_count()} cores, {memory} GB, Python {platform.python_version()}; load {load_before:.1f}")
    print(f"command   python {' '.join(sys.argv)}", flush=True)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(App(Settings.load(data_dir=place, log_level="error")))
        content, tenant, spent = app.content, app.default_tenant, Spent(place)
        assert isinstance(content, Content)
        collection = content.collection(NAME, embedder=None, fields=("text",), format="plain")
        asked = questions(count)
        if not await counted(app, tenant, "collection"):
            await collection.put("first", {"text": "first"}, tenant=tenant)
            start = time.perf_counter()
            await asyncio.to_thread(load, app.db.url, tenant, NAME, chunks)
            print(f"loaded    {chunks:,} chunks in {time.perf_counter() - start:.0f} s", flush=True)
            print(f"{'search':<30}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}")
            await measure("4 words, no lists yet", collection, tenant, asked["4 words"][0][:10], None, spent)
            start, cpu = time.perf_counter(), spent()
            await content.statistics.fold(tenant, NAME)
            print(f"lists     made in {time.perf_counter() - start:.0f} s, {spent() - cpu:.0f} s of CPU", flush=True)
        print(f"{'search':<30}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}")
        for kind, (queries, where) in asked.items():
            await measure(kind, collection, tenant, queries, where, spent)
        await write(app, collection, tenant, 1_000)
        await measure("4 words, after the writes", collection, tenant, asked["4 words"][0], None, spent)
        print(f"load      {os.getloadavg()[0]:.1f} at the end, {load_before:.1f} at the start, of which 1 is this")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Text search at size.")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backstay-") as temporary:
        uvloop.run(main(options.chunks, options.queries, options.place or Path(temporary)))
