"""Does memory stay flat, and are the books straight, after hours of everything at once?

    python benchmarks/gateway/soak.py [--seconds 3600] [--rate 60]

Starts `backstay up` as a user does (embedded Postgres in a temporary folder, no worker process), a provider in three
formats that misbehaves now and then (soak_provider.py: 429, 500, resets, cut streams, slow first tokens), and loads the
gateway from this process at a paced rate: plain calls and streams of four client formats, to providers of three, in
three tenants with three keys each; clients that leave in the middle; embeddings; cached calls; guarded ones; calls
refused for a budget, a limit, a key, a body. SIGINT or SIGTERM ends it earlier, with its report.

Every half minute it prints a line: memory of the gateway's process, its open files, the calls and holds that are open
in the database, sizes of the database and of Postgres' processes. At the end: how memory grew over the last three
quarters (least squares), how calls ended by kind, whether a hold or an open call was left, and whether each budget's
spend is what the ledger says. Exit code 1 when something of this is not as it should be.
"""

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import psycopg
import uvloop
from soak_provider import provide

MASTER_KEY = "benchmark-" + "0123456789" * 4
TARGETS = ["openai:gpt-4o-mini", "anthropic:claude-haiku-4-5", "gemini:gemini-2.5-flash"]
ROUTES: dict[str, dict[str, Any]] = {
    "mix": {"targets": TARGETS, "deadlines": {"first_token": 1}},
    "spread": {"targets": TARGETS, "strategy": "weighted", "sticky": True, "deadlines": {"first_token": 1}},
    "whole": {"targets": TARGETS, "mode": "guarded", "deadlines": {"first_token": 1}},
}
MODELS = ["mix", "mix", "spread", *TARGETS]
MOST_OPEN = 1000
TOO_SHORT = 1800.0  # seconds; warming up would be taken for growth
# What the provider's faults may come to when no retry and no fallback helped.
PASSED_ON = {"429", "502", "503", "504", "error told"}


@dataclass
class Sample:
    at: float
    rss: float
    uss: float
    cpu: float
    calls: int


@dataclass
class Tally:
    """How calls ended, by kind; `times` are those of plain calls since the last sample."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    skipped: int = 0


class Caller:
    """Makes one call of a kind and says how it ended."""

    def __init__(self, session: aiohttp.ClientSession, keys: dict[str, list[str]], chance: random.Random) -> None:
        self.session, self.chance = session, chance
        self.rich = [key for name in ("default", "north", "south") for key in keys[name]]
        self.poor, self.limited = keys["poor"][0], keys["limited"][0]

    def prompt(self) -> str:
        length = min(int(self.chance.paretovariate(1.0) * 150), 120_000)
        return f"{self.chance.getrandbits(64):x} " + "x" * length

    def headers(self, key: str | None = None, **more: str) -> dict[str, str]:
        return {
            "authorization": f"Bearer {key or self.chance.choice(self.rich)}",
            "backstay-user": f"user-{self.chance.randrange(3000)}",
            **more,
        }

    async def post(self, path: str, body: Any, headers: dict[str, str]) -> str:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(path, data=raw, headers=headers) as answer:
            await answer.read()
            return str(answer.status)

    async def read(self, path: str, body: Any, end: bytes, leave: int | None = None) -> str:
        """Reads a stream to its end, or leaves after some pieces of it."""
        seen, pieces = bytearray(), 0
        async with self.session.post(path, data=json.dumps(body).encode(), headers=self.headers()) as answer:
            if answer.status != 200:
                await answer.read()
                return str(answer.status)
            async for piece in answer.content.iter_any():
                seen += piece
                pieces += 1
                if leave is not None and pieces > leave:
                    answer.close()
                    return "left"
        if end in seen:
            return "whole"
        return "error told" if b'"error"' in seen else "cut"

    def chat(self, model: str, **more: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": self.prompt()}], "max_tokens": 1500, **more}

    async def plain(self) -> str:
        return await self.post("/v1/chat/completions", self.chat(self.chance.choice(MODELS)), self.headers())

    async def stream(self) -> str:
        body = self.chat(self.chance.choice(MODELS), stream=True)
        return await self.read("/v1/chat/completions", body, b"data: [DONE]")

    async def left_stream(self) -> str:
        body = self.chat(self.chance.choice(MODELS), stream=True)
        return await self.read("/v1/chat/completions", body, b"data: [DONE]", self.chance.randrange(20))

    async def left_plain(self) -> str:
        """Gives up at some moment of the call, which may be before it has begun."""
        try:
            async with asyncio.timeout(self.chance.uniform(0.0005, 0.03)):
                return await self.plain()
        except TimeoutError:
            return "left"

    async def guarded(self) -> str:
        return await self.read("/v1/chat/completions", self.chat("whole", stream=True), b"data: [DONE]")

    async def embed(self) -> str:
        texts = [self.prompt()[:2000] for _ in range(self.chance.randrange(1, 9))]
        return await self.post(
            "/v1/embeddings", {"model": "openai:text-embedding-3-small", "input": texts}, self.headers()
        )

    async def cached(self) -> str:
        number = int(400 * self.chance.random() ** 2)
        message = {"role": "user", "content": f"question {number}: " + "why? " * number}
        headers = self.headers(**{"backstay-cache": "ttl=60"})
        return await self.post("/v1/chat/completions", {"model": "mix", "messages": [message]}, headers)

    async def anthropic(self) -> str:
        body = {"model": self.chance.choice(MODELS), "max_tokens": 1500, "system": "Be brief."}
        body["messages"] = [{"role": "user", "content": self.prompt()}]
        if self.chance.random() < 0.5:
            return await self.post("/v1/messages", body, self.headers(**{"anthropic-version": "2023-06-01"}))
        return await self.read("/v1/messages", {**body, "stream": True}, b'"message_stop"')

    async def gemini(self) -> str:
        body = {"contents": [{"role": "user", "parts": [{"text": self.prompt()}]}]}
        body |= {"generationConfig": {"maxOutputTokens": 1500}}
        path = f"/v1beta/models/{self.chance.choice(MODELS)}"
        if self.chance.random() < 0.5:
            return await self.post(f"{path}:generateContent", body, self.headers())
        return await self.read(f"{path}:streamGenerateContent?alt=sse", body, b'"finishReason"')

    async def responses(self) -> str:
        body = {"model": self.chance.choice(TARGETS[1:]), "input": self.prompt(), "max_output_tokens": 1500}
        if self.chance.random() < 0.5:
            return await self.post("/v1/responses", body, self.headers())
        return await self.read("/v1/responses", {**body, "stream": True}, b'"response.completed"')

    async def over_budget(self) -> str:
        return await self.post("/v1/chat/completions", self.chat("mix"), self.headers(self.poor))

    async def over_limit(self) -> str:
        return await self.post("/v1/chat/completions", self.chat("mix"), self.headers(self.limited))

    async def bad_key(self) -> str:
        key = f"some-key-{self.chance.getrandbits(64):x}"
        return await self.post("/v1/chat/completions", self.chat("mix"), self.headers(key))

    async def bad_body(self) -> str:
        bad = [b'{"model": "mix", "messages": [', {"model": "mix"}, self.chat(f"no-{self.chance.getrandbits(32)}")]
        return await self.post("/v1/chat/completions", self.chance.choice(bad), self.headers())

    async def look(self) -> str:
        """What a dashboard asks for."""
        path = self.chance.choice(["/v1/models", "/metrics", "/readyz", "/api/gateway/calls?limit=20"])
        async with self.session.get(path, headers=self.headers()) as answer:
            await answer.read()
            return str(answer.status)


# Kind: its share, its method, the good ends. What comes of the provider's faults may be there beside them.
KINDS: dict[str, tuple[int, Callable[[Caller], Awaitable[str]], set[str]]] = {
    "plain": (22, Caller.plain, {"200"} | PASSED_ON),
    "stream": (14, Caller.stream, {"whole"} | PASSED_ON),
    "left stream": (6, Caller.left_stream, {"left", "whole"} | PASSED_ON),
    "left plain": (3, Caller.left_plain, {"left", "200"} | PASSED_ON),
    "guarded": (3, Caller.guarded, {"whole"} | PASSED_ON),
    "embed": (10, Caller.embed, {"200"} | PASSED_ON),
    "cached": (14, Caller.cached, {"200"} | PASSED_ON),
    "anthropic": (9, Caller.anthropic, {"200", "whole"} | PASSED_ON),
    "gemini": (7, Caller.gemini, {"200", "whole"} | PASSED_ON),
    "responses": (5, Caller.responses, {"200", "whole"} | PASSED_ON),
    "over budget": (2, Caller.over_budget, {"402"}),
    "over limit": (2, Caller.over_limit, {"200", "429"} | PASSED_ON),
    "bad key": (1, Caller.bad_key, {"401"}),
    "bad body": (1, Caller.bad_body, {"400", "404", "422"}),
    "look": (1, Caller.look, {"200"}),
}


@contextlib.contextmanager
def backstay(folder: Path, provider: int) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """`backstay up`; gives its address, the admin's key and its process."""
    base = f"http://127.0.0.1:{provider}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BACKSTAY_")}
    environment = clean | {
        "BACKSTAY_DATA_DIR": str(folder),
        "BACKSTAY_MASTER_KEY": MASTER_KEY,
        "BACKSTAY_WORKERS": "0",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"{base}/v1",
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_BASE_URL": base,
        "GEMINI_API_KEY": "none",
        "GOOGLE_GEMINI_BASE_URL": base,
    }
    said, log = folder / "up.out", folder / "up.log"
    with said.open("wb") as out, log.open("wb") as errors:
        program = [sys.executable, "-m", "backstay", "up", "--port", "0"]
        process = subprocess.Popen(program, env=environment, cwd=folder, stdout=out, stderr=errors)
        try:
            deadline = time.monotonic() + 90
            while "ready in" not in said.read_text():
                assert process.poll() is None, said.read_text() + log.read_text()
                assert time.monotonic() < deadline, "backstay up did not come up"
                time.sleep(0.1)
            text = said.read_text()
            address, key = (re.search(p, text) for p in (r"reference\s+(http\S+)/docs", r"admin key\s+(\S+)"))
            assert address, text
            assert key, text
            yield address[1], key[1], process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


async def prepare(url: str, address: str, admin: str) -> dict[str, list[str]]:
    """Tenants with keys, routes, budgets and limits. Returns the keys by tenant."""
    from backstay.audit import Audit
    from backstay.auth import Auth
    from backstay.kernel.clock import SystemClock
    from backstay.kernel.crypto import Vault
    from backstay.kernel.db import Database
    from backstay.kernel.settings import Settings

    settings = Settings.load(database_url=url, master_key=MASTER_KEY)
    clock, vault = SystemClock(), Vault.of(settings)
    owners = {"default": admin}
    async with Database(url, settings) as db:
        auth = Auth(db, clock, vault, Audit(db, clock, vault))
        for name in ("north", "south", "poor", "limited"):
            tenant = await auth.create_tenant(name, name.title())
            owners[name] = (await auth.create_owner(tenant.id, "owner")).secret
    keys: dict[str, list[str]] = {}
    async with aiohttp.ClientSession(address, raise_for_status=True) as session:

        async def send(method: str, path: str, by: str, body: Any) -> Any:
            async with session.request(method, path, json=body, headers={"authorization": f"Bearer {by}"}) as answer:
                return await answer.json()

        for name, owner in owners.items():
            budget = "0.0000001" if name == "poor" else "1000000"
            await send("POST", "/api/gateway/budgets", owner, {"scope": "tenant", "limit": budget, "window": "total"})
            few = {"scope": "tenant", "unit": "requests", "limit": 20, "window": "minute"}
            many = {"scope": "tenant", "unit": "concurrency", "limit": 100_000}
            await send("POST", "/api/gateway/limits", owner, few if name == "limited" else many)
            for route, definition in ROUTES.items():
                await send("PUT", f"/api/gateway/routes/{route}", owner, definition)
            keys[name] = [owner]
            for number in (1, 2):
                body = {"name": f"app {number}", "role": "developer", "feature": f"feature-{number}"}
                keys[name].append((await send("POST", "/api/keys", owner, body))["secret"])
    return keys


async def call(caller: Caller, kind: str, tally: Tally) -> None:
    _, method, good = KINDS[kind]
    start = time.perf_counter()
    try:
        end = await method(caller)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        end = type(error).__name__
    if kind == "plain" and end == "200":
        tally.times.append(time.perf_counter() - start)
    tally.ends[kind, end] += 1
    if end not in good:
        tally.wrong.append(f"{kind}: {end}")


async def press(caller: Caller, rate: float, seconds: float, tally: Tally, stop: asyncio.Event) -> None:
    """Calls come at random moments, whether or not earlier ones have ended, until the time is over or `stop` is set."""
    names, shares = list(KINDS), [share for share, _, _ in KINDS.values()]
    open_calls: set[asyncio.Task[None]] = set()
    next_at = time.monotonic()
    end = next_at + seconds
    while next_at < end and not stop.is_set():
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        next_at += caller.chance.expovariate(rate)
        if len(open_calls) >= MOST_OPEN:
            tally.skipped += 1
            continue
        task = asyncio.create_task(call(caller, caller.chance.choices(names, shares)[0], tally))
        open_calls.add(task)
        task.add_done_callback(open_calls.discard)
    async with asyncio.timeout(120):
        await asyncio.gather(*open_calls)


async def open_rows(connection: psycopg.AsyncConnection[Any]) -> tuple[int, int, float]:
    """Open calls, holds, MiB of the database."""
    found = await connection.execute(
        "select (select count(*) from backstay.call where state = 'open'), (select count(*) from backstay.hold),"
        " pg_database_size(current_database()) / 1048576.0"
    )
    calls, holds, size = (await found.fetchone()) or (0, 0, 0)
    return calls, holds, float(size)


def postgres_memory(pid: int) -> float:
    """MiB that Postgres' processes have for themselves; what they share is counted once, in the postmaster."""
    postmaster = psutil.Process(pid)
    total = postmaster.memory_info().rss
    for child in postmaster.children():
        with contextlib.suppress(psutil.Error):
            total += child.memory_full_info().uss
    return total / 2**20


async def watch(
    process: psutil.Process, postmaster: int, url: str, every: float, tally: Tally, samples: list[Sample]
) -> None:
    """Takes a sample and prints its line, until it is cancelled."""
    print("    min  RSS MiB  USS MiB  files  threads  open calls  holds  database  Postgres   calls/s   CPU  p50 plain")
    start, calls_before, cpu_before, then = time.monotonic(), 0, 0.0, time.monotonic()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            await asyncio.sleep(every - (time.monotonic() - start) % every)
            memory, times = process.memory_full_info(), process.cpu_times()
            now, count, cpu = time.monotonic(), tally.ends.total(), times.user + times.system
            calls, holds, size = await open_rows(connection)
            sample = Sample(now - start, memory.rss / 2**20, memory.uss / 2**20, cpu, count)
            p50 = statistics.median(tally.times) * 1000 if tally.times else 0.0
            tally.times.clear()
            print(
                f"{sample.at / 60:7.1f} {sample.rss:8.1f} {sample.uss:8.1f} {process.num_fds():6} "
                f"{process.num_threads():8} {calls:11} {holds:6} {size:5.0f} MiB {postgres_memory(postmaster):5.0f} "
                f"MiB {(count - calls_before) / (now - then):9.1f} {(cpu - cpu_before) / (now - then):5.0%} "
                f"{p50:7.1f} ms",
                flush=True,
            )
            samples.append(sample)
            calls_before, cpu_before, then = count, cpu, now


def slope(samples: list[Sample], values: list[float]) -> tuple[float, float]:
    """MiB an hour by least squares, and its standard error as if samples were independent."""
    hours = [sample.at / 3600 for sample in samples]
    line = statistics.linear_regression(hours, values)
    left = [value - line.intercept - line.slope * hour for hour, value in zip(hours, values, strict=True)]
    mean = statistics.fmean(hours)
    spread = sum((hour - mean) ** 2 for hour in hours)
    return line.slope, math.sqrt(sum(one**2 for one in left) / max(1, len(left) - 2) / spread)


async def books(url: str) -> list[str]:
    """What is not in order in the database of a gateway at rest."""
    wrong = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        calls, holds, _ = await open_rows(connection)
        if calls or holds:
            wrong.append(f"{calls} open calls and {holds} holds are left")
        found = await connection.execute(
            "select t.slug, w.spent, w.held,"
            " (select coalesce(sum(l.cost), 0) from backstay.ledger l where l.tenant_id = t.id)"
            " from backstay.tenant t join backstay.budget b on b.tenant_id = t.id and b.unit = 'usd'"
            " left join backstay.budget_window w on w.tenant_id = b.tenant_id and w.budget_id = b.id"
        )
        for slug, spent, held, paid in await found.fetchall():
            if (spent or Decimal(0)) != paid or held:
                wrong.append(f"the budget of {slug} has spent {spent} and holds {held}; the ledger says {paid}")
        found = await connection.execute("select count(*), sum(cost) from backstay.ledger")
        rows, cost = (await found.fetchone()) or (0, 0)
        print(f"ledger   {rows} attempts, ${cost:.4f}")
    return wrong


def report(tally: Tally, samples: list[Sample], bound: float) -> bool:
    """Prints how it went; whether memory is flat, as far as it was long enough to tell."""
    for kind in KINDS:
        ends = sorted((end, count) for (of, end), count in tally.ends.items() if of == kind)
        print(f"ended    {kind:12}" + "   ".join(f"{end} {count}" for end, count in ends))
    late = [sample for sample in samples if sample.at >= samples[-1].at / 4]
    if len(late) < 3:
        print("memory   too few samples")
        return True
    rss, rss_error = slope(late, [sample.rss for sample in late])
    uss, uss_error = slope(late, [sample.uss for sample in late])
    first, last = late[0], late[-1]
    print(
        f"memory   {first.rss:.1f} MiB RSS after {first.at / 60:.1f} min, {last.rss:.1f} after {last.at / 60:.1f}; "
        f"slope of the last three quarters {rss:+.1f} ± {rss_error:.1f} MiB/h RSS, {uss:+.1f} ± {uss_error:.1f} USS"
    )
    spent = (last.cpu - first.cpu) / (last.calls - first.calls)
    print(f"CPU      {spent * 1000:.2f} ms of the gateway's process a call, streams and refused calls included")
    flat = max(rss, uss) < bound
    if last.at < TOO_SHORT:
        print(f"verdict  none: under {TOO_SHORT / 60:.0f} minutes, warming up cannot be told from growth")
        return True
    print(f"verdict  {'flat' if flat else 'grows'} (the bound is {bound:g} MiB/h)")
    return flat


def log_lines(log: Path) -> Counter[str]:
    """Log lines by level and event."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        try:
            told = json.loads(line)
            found[f"{told['level']}: {told['event']}"] += 1
        except (ValueError, KeyError, TypeError):
            found[line[:80]] += 1
    return found


async def soak(options: Any, database: Any, address: str, admin: str, pid: int) -> tuple[Tally, list[Sample]]:
    keys = await prepare(database.url, address, admin)
    tally, samples, stop = Tally(), list[Sample](), asyncio.Event()
    watcher = asyncio.create_task(watch(psutil.Process(pid), database.pid, database.url, options.every, tally, samples))
    # A pool below the number of calls that are open at once: connections come and go as those of clients do.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10)
    async with aiohttp.ClientSession(address, connector=connector) as session:
        pressing = asyncio.create_task(
            press(Caller(session, keys, random.Random(options.seed)), options.rate, options.seconds, tally, stop)
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await asyncio.wait([watcher, pressing], return_when=asyncio.FIRST_COMPLETED)
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        await pressing
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        start = time.monotonic()
        for _ in range(600):
            calls, holds, _ = await open_rows(connection)
            if not calls and not holds:
                break
            await asyncio.sleep(0.1)
    print(f"drained  {time.monotonic() - start:.1f} s after the last client: {calls} open calls, {holds} holds")
    return tally, samples


def main() -> None:
    from backstay.kernel.embedded import EmbeddedPostgres

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=60.0, help="calls a second")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between samples")
    parser.add_argument("--bound", type=float, default=5.0, help="MiB an hour below which memory counts as flat")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    memory = psutil.virtual_memory().total / 2**30
    print(
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}, "
        f"load of other work at the start {os.getloadavg()[0]:.1f}\n"
        f"soak.py --seconds {options.seconds:g} --rate {options.rate:g}",
        flush=True,
    )
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    provider = context.Process(target=provide, args=(ports, options.seed), daemon=True)
    provider.start()
    try:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as database:
            with backstay(Path(folder), ports.get(timeout=30)) as (address, admin, process):
                tally, samples = uvloop.run(soak(options, database, address, admin, process.pid))
            wrong = asyncio.run(books(database.url))
            lines = log_lines(Path(folder) / "up.log")
            code = process.returncode
    finally:
        provider.terminate()
        provider.join()
    flat = report(tally, samples, options.bound)
    for line, count in lines.most_common(12):
        print(f"log      {count} × {line}")
    if code != 0:
        wrong.append(f"backstay up ended with code {code}")
    if tally.skipped:
        wrong.append(f"{tally.skipped} calls were not made: {MOST_OPEN} were open")
    wrong += [f"{count} × {end}" for end, count in Counter(tally.wrong).most_common()]
    print(
        "\n".join(f"WRONG    {one}" for one in wrong)
        or "right    no call ended as it should not, the books are straight"
    )
    sys.exit(1 if wrong or not flat else 0)


if __name__ == "__main__":
    main()
