"""Vector search through the whole room, beside Chroma and LanceDB, on the same vectors in the same run.

    python benchmarks/content/vectors.py [--chroma PYTHON] [--lance PYTHON] [--keep FOLDER]
        [--count 100000] [--dimensions 768] [--queries 400]

Starts an embedded Postgres in a temporary folder and fills a collection by `put_many`, jobs, and the index that the
pipeline builds; --keep leaves it in FOLDER for the next run. Then searches go through `Collection.search`: two
transactions under row-level security, the query's vector between them, documents and texts in the answer. The nearest
are known from a scan in single precision by numpy, which has to be installed (it is in the group `dev`).

The others are measured in environments of their own, where you have installed them: give the `python` of each. They are
libraries on files of their own process: no server, no tenants, no transaction with other rows. They are given the
query's vector, as Backstay is by an embedder that costs nothing.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from topics import GROUPS, Topics, embedded, introduce, recall

from backstay.app import App
from backstay.content import Collection, Content
from backstay.content.indexes.advice import Thresholds
from backstay.content.models import Space
from backstay.jobs import Jobs
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

HERE = Path(__file__).parent
K, GROUP, OTHERS = 10, 7, 5_000
PEERS = ("chroma", "lance")
Search = Callable[[int], Awaitable[list[str]]]


async def fill(content: Content, jobs: Jobs, topic: Collection, tenant: UUID, count: int) -> None:
    start = time.perf_counter()
    for at in range(0, count, 1000):
        documents = [(str(n), {"text": f"topic {n}", "group": n % GROUPS}) for n in range(at, min(at + 1000, count))]
        await topic.put_many(documents, tenant=tenant)
    print(f"put       {count / (time.perf_counter() - start):,.0f} documents/s, in batches of 1,000, one writer")
    async with working(jobs):
        start = time.perf_counter()
        while (await topic.coverage(tenant)).pending:  # noqa: ASYNC110 -- as a user would look
            await asyncio.sleep(0.1)
        print(f"embed     {count / (time.perf_counter() - start):,.0f} chunks/s, embedder at no cost, one worker")
        start = time.perf_counter()
        while (await space_of(content, tenant)).indexed_at is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        print(f"index     built {time.perf_counter() - start:.1f} s after the last vector, writers not stopped")


async def space_of(content: Content, tenant: UUID) -> Space:
    space = (await content.find(Principal.system(tenant, "benchmark"), "topics")).space
    assert space is not None
    return space


@asynccontextmanager
async def working(jobs: Jobs) -> AsyncIterator[None]:
    stop = asyncio.Event()
    worker = asyncio.create_task(jobs.worker(concurrency=2).run(stop))
    try:
        yield
    finally:
        stop.set()
        await worker


async def measure(name: str, search: Search, queries: int, wanted: Sequence[Sequence[str]], clients: int = 1) -> None:
    """One line: recall, latency, and how many queries a second `clients` get answered together."""
    for number in range(min(queries, 50)):
        await search(number)
    found: list[list[str]] = [[]] * queries
    seconds, left = [], iter(range(queries))
    began, cpu = time.perf_counter(), time.process_time()

    async def client() -> None:
        for number in left:
            start = time.perf_counter()
            found[number] = await search(number)
            seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    whole, cpu = time.perf_counter() - began, time.process_time() - cpu
    line(name, recall(wanted[:queries], found), seconds, queries / whole, cpu / queries)


def line(name: str, found: float, seconds: Sequence[float], rate: float, cpu: float | None = None) -> None:
    cuts = statistics.quantiles(seconds, n=100)
    own = "" if cpu is None else f"{cpu * 1e3:>9.2f}"
    print(f"{name:<22}{found:>10.4f}{cuts[49] * 1e3:>9.2f}{cuts[98] * 1e3:>9.2f}{rate:>11,.0f}{own}", flush=True)


def searching(topic: Collection, tenant: UUID, where: dict[str, Any] | None = None) -> Search:
    async def search(number: int) -> list[str]:
        answer = await topic.search(f"query {number}", mode="semantic", k=K, where=where, tenant=tenant)
        return [hit.id for hit in answer.hits]

    return search


@asynccontextmanager
async def bare(url: str, topics: Topics, space: int) -> AsyncIterator[Search]:
    """The same index asked by one prepared statement of a superuser: no tenants, no texts, no settings to make."""
    statement = (
        f"select c.content_id from (select chunk_id, e <=> %s::halfvec as distance from backstay.vec_{space} "
        f"order by e <=> %s::halfvec limit {K}) v join backstay.chunk c on c.id = v.chunk_id order by v.distance + 0"
    )
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as connection:
        await connection.execute("set hnsw.ef_search = 100")

        async def search(number: int) -> list[str]:
            query = f"[{','.join(map('{:.6g}'.format, topics.queries[number].tolist()))}]"
            rows = await (await connection.execute(statement, [query, query])).fetchall()
            return [id for (id,) in rows]

        yield search


@asynccontextmanager
async def writing(topic: Collection, jobs: Jobs, tenant: UUID) -> AsyncIterator[list[int]]:
    """Documents that no query is near to are put, embedded and changed for as long as the block lasts, in this
    process. Yields how many so far."""
    stop, count = asyncio.Event(), [0]

    async def write() -> None:
        while not stop.is_set():
            first = count[0] % OTHERS
            batch = [(f"o{n}", {"text": f"{count[0]} other {n}", "group": -1}) for n in range(first, first + 20)]
            await topic.put_many(batch, tenant=tenant)
            count[0] += len(batch)

    async with working(jobs):
        writer = asyncio.create_task(write())
        try:
            yield count
        finally:
            stop.set()
            await writer


def peer(name: str, python: str, folder: Path, options: argparse.Namespace, topics: Topics) -> None:
    command = [python, str(HERE / f"{name}_side.py"), str(folder), json.dumps({"k": K, "group": GROUP})]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    lines = [text for text in done.stdout.splitlines() if text.startswith("MEASURED ")]
    if not lines:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    for found in json.loads(lines[-1].removeprefix("MEASURED ")):
        wanted = topics.nearest(K, GROUP if found["filtered"] else None)
        whole = sum(found["seconds"])
        line(found["name"], recall(wanted, found["ids"]), found["seconds"], len(found["ids"]) / whole, found["cpu"])


async def ours(place: Path, topics: Topics, options: argparse.Namespace) -> None:
    queries = options.queries
    async with App(Settings.load(data_dir=place, log_level="error")) as app:
        jobs = Jobs(app.db, app.clock, app.settings)
        content = Content(app.db, app.clock, jobs, topics, app.audit, app.events)
        content.indexer.thresholds = Thresholds(options.count, options.count)
        topic, tenant = content.collection("topics", embedder="bench:topics"), app.default_tenant
        if options.count > (await embedded(topic, tenant)):
            await fill(content, jobs, topic, tenant, options.count)
        space = await space_of(content, tenant)
        nearest, in_group = topics.nearest(K), topics.nearest(K, GROUP)
        print(f"{'':<22}{'recall@10':>10}{'p50 ms':>9}{'p99 ms':>9}{'queries/s':>11}{'CPU ms':>9}")
        async with bare(app.db.url, topics, space.id) as search:
            await measure("bare SQL", search, queries, nearest)
        await measure("Backstay", searching(topic, tenant), queries, nearest)
        await measure("  8 clients at once", searching(topic, tenant), queries, nearest, clients=8)
        await measure("  1 % by a filter", searching(topic, tenant, {"group": GROUP}), queries, in_group)
        async with writing(topic, jobs, tenant) as count:
            start, before = time.perf_counter(), count[0]
            await measure("  under writes", searching(topic, tenant), queries, nearest)
            rate = (count[0] - before) / (time.perf_counter() - start)
        print(f"{'':<22}({rate:,.0f} documents/s were put and embedded meanwhile, in the same process)")
        content.searcher.exact_rows = 10 * options.count
        await measure("  every vector", searching(topic, tenant), min(queries, 50), nearest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PEERS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"the python of an environment that has {name}")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the filled database stays for the next run")
    options = parser.parse_args()
    introduce()
    topics = Topics(options.count, options.dimensions, options.queries, OTHERS)
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as name:
        folder = Path(name)
        uvloop.run(ours(options.keep or folder / "backstay", topics, options))
        topics.save(folder)
        for side in PEERS:
            if python := getattr(options, side):
                peer(side, python, folder, options, topics)
    print(f"load      {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
