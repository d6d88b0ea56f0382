"""What every side of the benchmark plays on: the same questions, the same counting, nothing but the standard library.

A side is a module with `setup(url)`, `clear(url)`, `sender(url)` and `work(url, desk)`, as in backstay_side.py. It
runs in the interpreter of its own environment, `python stage.py SIDE URL OPTIONS`, and prints a line of JSON.
Times are those of the handlers: each worker counts what it has begun, in memory that all processes share.
"""

import asyncio
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

BATCH = 1_000
LANES = 64


class Desk:
    """Where one worker process tells what it does. `stamps[n]`: when job `n` began, on the machine's own clock."""

    def __init__(self, number: int, counts: Any, stamps: Any, ready: Any) -> None:
        self._number, self._counts, self._stamps, self._ready = number, counts, stamps, ready

    def open(self) -> None:
        """The worker is about to claim: waits until the others are as far."""
        self._ready.wait()

    def count(self) -> None:
        self._counts[self._number] += 1

    def stamp(self, number: int) -> None:
        self._stamps[number] = time.monotonic()


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """On uvloop where the environment has it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


class Stage:
    """One side's database, and its worker processes."""

    def __init__(self, side: str, url: str, options: dict[str, Any]) -> None:
        self.name, self.url, self.options = side, url, options
        self.side = importlib.import_module(side)
        self._context = multiprocessing.get_context("spawn")
        self.stamps = self._context.RawArray("d", options["latencies"])
        self._counts = self._context.RawArray("q", 2)

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """Runs worker processes; the block begins when all are about to claim."""
        for number in range(2):
            self._counts[number] = 0
        ready = self._context.Barrier(count + 1)
        desks = [Desk(number, self._counts, self.stamps, ready) for number in range(count)]
        processes = [self._context.Process(target=self.side.work, args=(self.url, desk), daemon=True) for desk in desks]
        for process in processes:
            process.start()
        try:
            ready.wait(60)
            yield
        finally:
            for process in processes:
                process.kill()
                process.join()

    def rate(self, workers: int, wanted: int) -> float:
        """How many a second the workers begin, from the first one seen to the last or to the end of the time."""
        with self.workers(workers):
            before, began = self._awaited(1), time.monotonic()
            ends = began + self.options["seconds"]
            while (done := sum(self._counts)) < wanted and time.monotonic() < ends:
                time.sleep(0.005)
            return (done - before) / (time.monotonic() - began)

    def _awaited(self, count: int) -> int:
        deadline = time.monotonic() + 60
        while (done := sum(self._counts)) < count:
            assert time.monotonic() < deadline, f"the workers of {self.name} began nothing"
            time.sleep(0.001)
        return done


async def enqueue(stage: Stage, count: int) -> float:
    """Jobs a second in batches."""
    async with stage.side.sender(stage.url) as sender:
        began = time.monotonic()
        for first in range(0, count, BATCH):
            await sender.batch(range(first, min(first + BATCH, count)))
        return count / (time.monotonic() - began)


async def enqueue_singly(stage: Stage, count: int) -> float:
    """Jobs a second, each in a transaction of its own, 8 at a time."""
    async with stage.side.sender(stage.url) as sender:
        began = time.monotonic()

        async def some() -> None:
            for number in range(count // 8):
                await sender.job(number)

        await asyncio.gather(*(some() for _ in range(8)))
        return count / (time.monotonic() - began)


async def latency(stage: Stage, count: int) -> list[float]:
    """Milliseconds from the return of enqueue to the beginning of the job, in a worker that has nothing else to do."""
    times = []
    async with stage.side.sender(stage.url) as sender:
        for number in range(-5, count):  # the first ones find the way
            await asyncio.sleep(0.02)
            stage.stamps[number] = 0.0
            await sender.stamped(number % count)
            sent = time.monotonic()
            while not stage.stamps[number % count]:  # noqa: ASYNC110 -- another process sets it
                await asyncio.sleep(0.0002)
            if number >= 0:
                times.append(max(0.0, (stage.stamps[number] - sent) * 1000))
            stage.stamps[number % count] = 0.0
    return times


async def start_runs(stage: Stage, runs: int, steps: int) -> None:
    async with stage.side.sender(stage.url) as sender:
        await asyncio.gather(*(sender.run(steps) for _ in range(runs)))


def measure(stage: Stage) -> dict[str, Any]:
    options, found = stage.options, dict[str, float]()
    stage.side.setup(stage.url)
    found["enqueue singly"] = run(enqueue_singly(stage, options["singles"]))
    for workers in (1, 2):
        stage.side.clear(stage.url)
        if stage.side.BATCHES:
            jobs = options["jobs"]
            found.setdefault("enqueue in batches", run(enqueue(stage, jobs)))
        else:
            jobs = options["singles"]
            run(enqueue_singly(stage, jobs))
        found[f"jobs/s, {workers} worker{'s' * (workers > 1)}"] = stage.rate(workers, jobs)
    stage.side.clear(stage.url)
    with stage.workers(1):
        times = run(latency(stage, options["latencies"]))
    found["start p50"], found["start p99"] = statistics.median(times), statistics.quantiles(times, n=100)[98]
    if stage.side.STEPS:
        stage.side.clear(stage.url)
        run(start_runs(stage, 1, options["steps"]))
        found["steps/s, one by one"] = stage.rate(1, options["steps"])
        for workers in (1, 2):
            stage.side.clear(stage.url)
            run(start_runs(stage, options["runs"], options["run_steps"]))
            wanted = options["runs"] * options["run_steps"]
            found[f"steps/s at once, {workers} worker{'s' * (workers > 1)}"] = stage.rate(workers, wanted)
    return found


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    print("\nMEASURED " + json.dumps(measure(Stage(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))), flush=True)
