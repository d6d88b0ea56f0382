"""Retrieval quality on Cranfield, leg by leg, through the whole room: put, chunk, embed by jobs, search.

    python benchmarks/content/quality.py [--data FOLDER] [--embedder provider:model]

Reads cran.all.1400, cran.qry and cranqrel from FOLDER (default ../shared/data/cranfield beside the repository) and
skips with a reason when they are not there. Judgements number the queries by their order in the file. They are graded:
1 is a complete answer, 4 is of minimum interest; the gain of a document is 2^(5 - grade) - 1, of an unjudged one 0.
Without --embedder the vector leg is the hashing embedder for tests, which is not semantic and is named so.
"""

import argparse
import asyncio
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import psutil
import uvloop

from backstay.app import App
from backstay.content import Collection, Content
from backstay.kernel.settings import Settings

FILES = ("cran.all.1400", "cran.qry", "cranqrel")
Judgements = dict[int, dict[int, int]]


def documents(folder: Path) -> list[tuple[str, dict[str, str]]]:
    found = []
    for part in re.split(r"^\.I ", (folder / FILES[0]).read_text(), flags=re.MULTILINE)[1:]:
        number, _, rest = part.partition("\n")
        fields = dict(zip(*[iter(re.split(r"^\.([TABW])\n", rest, flags=re.MULTILINE)[1:])] * 2, strict=True))
        found.append((number.strip(), {"title": fields.get("T", ""), "text": fields.get("W", "")}))
    return found


def queries(folder: Path) -> list[str]:
    parts = re.split(r"^\.I", (folder / FILES[1]).read_text(), flags=re.MULTILINE)[1:]
    return [" ".join(part.split(".W", 1)[1].split()) for part in parts if ".W" in part]


def judgements(folder: Path) -> Judgements:
    found: Judgements = {}
    for line in (folder / FILES[2]).read_text().splitlines():
        query, document, grade = map(int, line.split())
        found.setdefault(query, {})[document] = grade
    return found


def ndcg(ranked: Sequence[int], judged: dict[int, int], depth: int = 10) -> float:
    gains = [2 ** (5 - judged[document]) - 1 if document in judged else 0 for document in ranked[:depth]]
    best = sorted((2 ** (5 - grade) - 1 for grade in judged.values()), reverse=True)[:depth]
    return discounted(gains) / discounted(best)


def discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


async def measure(
    collection: Collection, tenant: UUID, mode: str, asked: Sequence[str], judged: Judgements
) -> tuple[float, float, float, str]:
    """nDCG@10, p50 and p99 in milliseconds, and what the answers said was searched."""
    scores, seconds, said = [], [], set()
    for number, query in enumerate(asked, start=1):
        start = time.perf_counter()
        answer = await collection.search(query, mode=mode, k=10, per_document=1, tenant=tenant)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - start)
        said.add(answer.mode)
        scores.append(ndcg([int(hit.id) for hit in answer.hits], judged[number]))
    cuts = statistics.quantiles(seconds, n=100)
    return statistics.mean(scores), cuts[49] * 1e3, cuts[98] * 1e3, "/".join(sorted(said))


async def embedded(app: App, collection: Collection, tenant: UUID) -> float:
    """Seconds until every chunk has its vector."""
    stop, start = asyncio.Event(), time.perf_counter()
    worker = asyncio.create_task(app.jobs.worker(["content"], concurrency=2).run(stop))
    while (await collection.coverage(tenant)).pending:  # noqa: ASYNC110 -- another process could be at work
        await asyncio.sleep(0.05)
    stop.set()
    await worker
    return time.perf_counter() - start


async def main(folder: Path, embedder: str) -> None:
    documents_, asked, judged = documents(folder), queries(folder), judgements(folder)
    memory = psutil.virtual_memory().total >> 30
    print(f"machine   {os.cpu_count()} cores, {memory} GB, Python {platform.python_version()}")
    print(f"command   python {' '.join(sys.argv)}")
    print(f"data      {len(documents_)} documents, {len(asked)} queries, {sum(map(len, judged.values()))} judgements")
    async with AsyncExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="backstay-"))
        settings = Settings.load(data_dir=Path(place), log_level="error")
        app = await stack.enter_async_context(App(settings))
        tenant, content = app.default_tenant, app.content
        assert isinstance(content, Content)
        collection = content.collection("cranfield", embedder=embedder, fields=("title", "text"), format="plain")
        start = time.perf_counter()
        for at in range(0, len(documents_), 200):
            await collection.put_many(documents_[at : at + 200], tenant=tenant)
        wrote = time.perf_counter() - start
        await content.statistics.fold(tenant, "cranfield")
        seconds = await embedded(app, collection, tenant)
        coverage = await collection.coverage(tenant)
        print(f"put       {len(documents_) / wrote:,.0f} documents/s; {coverage.chunks} chunks")
        print(f"embedded  {coverage.embedded} chunks by {embedder} in {seconds:.1f} s")
        print(f"{'leg':<10}{'says':<10}{'nDCG@10':>9}{'p50 ms':>9}{'p99 ms':>9}")
        for mode in ("text", "semantic", "hybrid"):
            await measure(collection, tenant, mode, asked[:20], judged)  # warm
            score, p50, p99, said = await measure(collection, tenant, mode, asked, judged)
            print(f"{mode:<10}{said:<10}{score:>9.4f}{p50:>9.2f}{p99:>9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Retrieval quality on Cranfield.")
    default = Path(__file__).resolve().parents[3] / "shared" / "data" / "cranfield"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--embedder", default="sim:dev-hash")
    options = parser.parse_args()
    missing = [name for name in FILES if not (options.data / name).is_file()]
    if missing:
        print(f"skipped: {', '.join(missing)} not found in {options.data}; --data names the folder of Cranfield")
        sys.exit(0)
    uvloop.run(main(options.data, options.embedder))
