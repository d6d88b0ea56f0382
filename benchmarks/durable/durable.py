"""Jobs and steps of Backstay beside DBOS, Procrastinate and pgqueuer: the same questions, on the same Postgres.

    python benchmarks/durable/durable.py --dbos PYTHON --procrastinate PYTHON --pgqueuer PYTHON
    python benchmarks/durable/durable.py --million

Starts an embedded Postgres in a temporary folder (fsync on) and lets one side after the other play on a database of its
own, with 64 jobs at once in a worker process. The others are measured in environments of their own, where you have
installed them: give the `python` of each. Nothing leaves this machine. Printed are rates, the time from enqueue's
return to the beginning of a job in an idle worker, and how Backstay compares.

`--million` lets 1,000,000 jobs through Backstay and prints the rate of each 100,000: it must not fall.
"""

import argparse
import asyncio
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.postgres_socket import url as url_of

HERE = Path(__file__).parent
PEERS = ["dbos", "procrastinate", "pgqueuer"]
ROUND = 100_000


def database(server: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return url_of(Path(str(conninfo_to_dict(server.url)["host"])), name)


def play(python: str, side: str, url: str, options: dict[str, Any]) -> dict[str, float]:
    """Runs one side in its own interpreter."""
    command = [python, str(HERE / "stage.py"), f"{side}_side", url, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not lines:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(lines[-1].removeprefix("MEASURED "))
    print(f"{side}: load of all work {os.getloadavg()[0]:.1f}, {found}", flush=True)
    return found


def table(results: dict[str, dict[str, float]]) -> None:
    print(f"{'':24}" + "".join(f"{name:>18}" for name in results))
    for question in results["backstay"]:
        cells, ours = [], results["backstay"][question]
        for found in results.values():
            if question not in found:
                cells.append(f"{'-':>18}")
            elif question.startswith("start"):
                cells.append(f"{found[question]:>15.2f} ms")
            else:
                ratio = f" ({ours / found[question]:.1f}×)" if found is not results["backstay"] else ""
                cells.append(f"{f'{found[question]:,.0f}{ratio}':>18}")
        print(f"{question:24}" + "".join(cells))
    print("in brackets: how many times as much Backstay does")


async def million(url: str) -> None:
    """Ten rounds of 100,000: enqueued while the queue is paused, then worked off by a worker in this process."""
    import backstay_side as side

    from backstay.kernel.db import Database

    class Count:
        done = 0

        def count(self) -> None:
            self.done += 1

    config, desk = side.settings(url), Count()
    async with Database(url, config) as db:
        jobs = side.build(db, config, desk)[0]  # type: ignore[arg-type]
        stop = asyncio.Event()
        worker = asyncio.create_task(jobs.worker(concurrency=64).run(stop))
        for number in range(10):
            await jobs.pause("default")
            began = time.monotonic()
            for first in range(0, ROUND, 1_000):
                rows = [(None, side.Number(number=number)) for number in range(first, first + 1_000)]
                await jobs.enqueue_many("bench.nothing", rows, tenant=side.TENANT)
            enqueued, before = time.monotonic(), desk.done
            await jobs.resume("default")
            while desk.done < ROUND * (number + 1):  # noqa: ASYNC110 -- a signal for each job would be measured, too
                await asyncio.sleep(0.01)
            worked = ROUND * (number + 1) - before
            per_second = worked / (time.monotonic() - enqueued)
            rates = f"{ROUND / (enqueued - began):>9,.0f} enqueued/s {per_second:>9,.0f} jobs/s"
            print(f"{ROUND * (number + 1):>9,} {rates}   load {os.getloadavg()[0]:.1f}", flush=True)
        stop.set()
        await worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"the python of an environment that has {peer}")
    parser.add_argument("--jobs", type=int, default=40_000)
    parser.add_argument("--singles", type=int, default=2_000, help="jobs to enqueue one in a transaction")
    parser.add_argument("--latencies", type=int, default=100, help="jobs to time one by one")
    parser.add_argument("--steps", type=int, default=4_000, help="steps of one run, one by one")
    parser.add_argument("--runs", type=int, default=500, help="runs at once")
    parser.add_argument("--run-steps", type=int, default=40, help="steps of each of them")
    parser.add_argument("--seconds", type=float, default=8.0, help="the longest that a rate is measured")
    parser.add_argument("--million", action="store_true", help="1,000,000 jobs through Backstay instead")
    options = parser.parse_args()
    memory = psutil.virtual_memory().total / 2**30
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}")
    print(f"python {shlex.join(sys.argv)}")
    print(f"load of all work at the start {os.getloadavg()[0]:.1f}, nice {os.nice(0)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        url = database(server, "bench_backstay")
        if options.million:
            import backstay_side

            backstay_side.setup(url)
            asyncio.run(million(url))
            return
        results = {"backstay": play(sys.executable, "backstay", url, vars(options))}
        for peer in PEERS:
            if python := getattr(options, peer):
                results[peer] = play(python, peer, database(server, f"bench_{peer}"), vars(options))
        table(results)
        print(f"load of all work at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
