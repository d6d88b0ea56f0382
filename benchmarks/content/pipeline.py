"""How many chunks a second go the whole way: put, cut, counted for BM25, enqueued, embedded by a job, vectors written.

    python benchmarks/content/pipeline.py [--documents 10000] [--chunks 4] [--words 60] [--dimensions 768]

Starts an embedded Postgres in a temporary folder (fsync on) and an embedder that answers at once, in place of the
gateway; everything else is as in service: transactions, statistics, jobs, the ledger of requests, events. One process
writes in batches of 1,000 documents, 4 at a time, and works off the jobs. `put` is the writer alone, `embed` the worker
alone, `whole` both at once, from the first document until the last vector stands.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import uvloop
from topics import embedded, introduce

from backstay.app import App
from backstay.content import Collection, Content
from backstay.gateway import Embeddings
from backstay.jobs import Jobs
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

BATCH, WRITERS = 1_000, 4


class Instantly:
    """An embedder without delay: a few vectors, made before."""

    def __init__(self, dimensions: int) -> None:
        draw = random.Random(5)
        self._vectors = [[draw.gauss(0, 1) for _ in range(dimensions)] for _ in range(64)]

    async def embed(self, by: Any, model: str, inputs: Sequence[str], **_: Any) -> Embeddings:
        return Embeddings([self._vectors[len(text) % 64] for text in inputs], len(inputs), Decimal(0), model)

    async def embedding_cost(self, by: Any, model: str, tokens: int, requests: int) -> Decimal:
        return Decimal(0)


def documents(count: int, chunks: int, words: int) -> list[dict[str, str]]:
    """Markdown with a section for each chunk; words as often as in a language, by Zipf's law."""
    draw = random.Random(3)
    vocabulary = ["".join(draw.choices("aeioubcdfghlmnprst", k=draw.randint(2, 9))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    drawn = iter(draw.choices(vocabulary, weights, k=count * chunks * words))

    def section(place: int) -> str:
        return f"## Part {place}\n\n" + " ".join(next(drawn) for _ in range(words)) + "."

    return [{"text": "\n\n".join(section(place) for place in range(chunks))} for _ in range(count)]


@contextmanager
def measured(name: str, chunks: int, server: int) -> Iterator[None]:
    """One line: chunks a second, and what each costs this process and Postgres."""
    start, own, theirs = time.perf_counter(), time.process_time(), of(server)
    yield
    seconds, own, theirs = time.perf_counter() - start, time.process_time() - own, of(server) - theirs
    print(
        f"{name:<10}{chunks / seconds:>8,.0f} chunks/s   {own / chunks * 1e6:>6.0f} µs CPU a chunk here"
        f"   {theirs / chunks * 1e6:>6.0f} µs in Postgres",
        flush=True,
    )


def of(server: int) -> float:
    """CPU seconds of the server and its processes."""
    main = psutil.Process(server)
    total = 0.0
    for process in (main, *main.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + (times.children_user + times.children_system if process == main else 0)
    return total


async def put(topic: Collection, given: list[dict[str, str]], tenant: UUID) -> None:
    batches = iter(range(0, len(given), BATCH))

    async def write() -> None:
        for at in batches:
            some = given[at : at + BATCH]
            await topic.put_many([(f"{at + place:07}", body) for place, body in enumerate(some)], tenant=tenant)

    await asyncio.gather(*(write() for _ in range(WRITERS)))


async def embed(jobs: Jobs, topic: Collection, tenant: UUID, chunks: int) -> None:
    stop = asyncio.Event()
    worker = asyncio.create_task(jobs.worker(concurrency=2).run(stop))
    while await embedded(topic, tenant) < chunks:  # noqa: ASYNC110 -- as a user would look
        await asyncio.sleep(0.2)
    stop.set()
    await worker


async def main(options: argparse.Namespace, place: Path) -> None:
    given = documents(options.documents, options.chunks, options.words)
    async with App(Settings.load(data_dir=place, log_level="error")) as app:
        server = EmbeddedPostgres(place).pid
        jobs = Jobs(app.db, app.clock, app.settings)
        content = Content(app.db, app.clock, jobs, Instantly(options.dimensions), app.audit, app.events)
        tenant, count = app.default_tenant, options.documents * options.chunks

        def collection(name: str) -> Collection:
            return content.collection(name, embedder="bench:instantly", chunk_size=1_200, overlap=0)

        apart, together = collection("apart"), collection("together")
        with measured("put", count, server):
            await put(apart, given, tenant)
        chunks = (await apart.coverage(tenant)).chunks
        assert chunks == count, f"{chunks} chunks, not {count}: choose other --words"
        with measured("embed", count, server):
            await embed(jobs, apart, tenant, count)
        with measured("whole", count, server):
            await asyncio.gather(put(together, given, tenant), embed(jobs, together, tenant, count))
        calls = await content.embed_calls(Principal.system(tenant, "benchmark"), "together", limit=1_000)
        print(f"{len(calls)} requests to the embedder, {sum(call.inputs for call in calls):,} inputs in them")
    print(f"load      {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--chunks", type=int, default=4, help="of each document")
    parser.add_argument("--words", type=int, default=60, help="of each chunk")
    parser.add_argument("--dimensions", type=int, default=768)
    chosen = parser.parse_args()
    introduce()
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as folder:
        uvloop.run(main(chosen, Path(folder) / "backstay"))
