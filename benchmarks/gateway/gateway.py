"""The whole gateway under load: auth, admission under a hard budget, audit, upstream, settlement, ledger.

    python benchmarks/gateway/gateway.py [--seconds 5] [--concurrency 64] [--durability both]

Starts an embedded Postgres in a temporary folder (fsync on), a canned provider and the gateway, each a process of its
own on loopback, and loads the gateway from this one. Everything is on: keys, a route of two targets, a budget, limits
of requests and concurrency, audit, ledger. Prints requests/s, the p50 that the gateway adds to one call at a time, CPU
of the gateway's process a request and a streamed chunk, and its memory with open streams. `floor` is the same web
server and the same client of providers with nothing between them: what any gateway costs that is made of those two.

`--litellm PATH`: the `litellm` of an environment where its proxy is installed; it is measured in the same run, with one
worker, against the same provider. It keeps neither budgets nor records then, as it has no database.

`--tensorzero PATH`: the `python` of an environment where the package `tensorzero` is installed. What is measured is its
own gateway over HTTP: the package carries it as native code and starts it in a process of its own here, by the function
behind `tensorzero.patch_openai_client`, with one worker thread. It has no database either: observability is off, and
it asks for no key, keeps no budget and writes no record. The container that is released of it is not measured.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import platform
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import uvloop
from upstream_clients import Canned

CHUNKS = 100
PATH = "/v1/chat/completions"
JSON = "application/json"
SERVED: Any = {"port": 0, "lifespan": "off", "log_level": "warning", "access_log": False, "server_header": False}
MESSAGES = '"messages":[{"role":"user","content":"%s"}]' % ("x" * 400)


class Provider(Canned):
    """The canned provider for any body: what matters is the gateway's part."""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            _, _, declared = head.partition(b"content-length:")
            length = int(declared.split(b"\r\n")[0] or 0)
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.answer(b'"stream":true' in body)


def provide(ports: Any) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
        ports.put(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(main())


def serve(ports: Any, settings: dict[str, Any]) -> None:
    import uvicorn

    from backstay.audit import Audit
    from backstay.auth import Auth
    from backstay.events import Events
    from backstay.gateway import Gateway
    from backstay.gateway.catalog import Route
    from backstay.gateway.front import GatewayFront
    from backstay.kernel import garbage
    from backstay.kernel.clock import SystemClock
    from backstay.kernel.corked import CorkedProtocol
    from backstay.kernel.crypto import Vault
    from backstay.kernel.db import Database
    from backstay.kernel.settings import Settings

    async def main() -> None:
        loaded = Settings.load(**settings)
        clock, vault = SystemClock(), Vault.of(loaded)
        async with Database(loaded.database_url, loaded) as db:
            audit = Audit(db, clock, vault)
            auth = Auth(db, clock, vault, audit)
            tenant = await auth.ensure_default_tenant()
            issued = await auth.create_owner(tenant.id, f"bench {time.time_ns()}")
            gateway = Gateway(db, clock, vault, audit, Events(db, clock), loaded)
            owner = await auth.authenticate(issued.secret)
            if not await gateway.budgets.list(owner):
                await gateway.budgets.create(owner, "tenant", None, Decimal(1_000_000), "month")
                await gateway.limits.create(owner, "tenant", None, "requests", 100_000_000, "day")
                await gateway.limits.create(owner, "tenant", None, "concurrency", 100_000)
                targets = ["openai:gpt-4o-mini", "openai:gpt-4.1-mini"]
                await gateway.catalog.routes.put(owner, Route(name="bench", targets=targets))
            await gateway.start()
            config = uvicorn.Config(GatewayFront(gateway, auth.authenticate), **SERVED, http=CorkedProtocol)
            bound = config.bind_socket()
            bound.listen(1024)  # whoever hears of the port may connect
            garbage.settle()  # as `backstay serve` does
            ports.put((bound.getsockname()[1], issued.secret))
            await uvicorn.Server(config).serve([bound])

    uvloop.run(main())


def relay(ports: Any, provider: str) -> None:
    """The floor: the gateway's server and its client of providers, with nothing of the gateway between them."""
    import uvicorn

    from backstay.gateway.models import Timeouts
    from backstay.gateway.upstream import Upstream

    async def main() -> None:
        async with Upstream(Timeouts()) as upstream:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                body = (await receive())["body"]
                async with upstream.post(f"{provider}/chat/completions", body, {"content-type": JSON}) as exchange:
                    headers = [(b"content-type", exchange.headers["content-type"].encode())]
                    if "content-length" in exchange.headers:
                        headers.append((b"content-length", exchange.headers["content-length"].encode()))
                    await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
                    async for part in exchange.chunks():
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

            config = uvicorn.Config(app, **SERVED)
            bound = config.bind_socket()
            bound.listen(1024)
            ports.put(bound.getsockname()[1])
            await uvicorn.Server(config).serve([bound])

    uvloop.run(main())


class Client(asyncio.Protocol):
    """A client that costs as little as it can: one request at a time on one connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.done: asyncio.Future[bytes] | None = None
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank or self.done is None:
            return
        if b"content-length: " in head:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            whole = len(body) >= length
        else:
            whole = body.endswith(b"0\r\n\r\n")
        if whole:
            answer, self.buffer = self.buffer, b""
            done, self.done = self.done, None
            done.set_result(answer)

    async def ask(self, request: bytes) -> bytes:
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.done


def request_for(key: str, stream: bool, model: str = "bench", path: str = PATH) -> bytes:
    extra = ',"stream":true' if stream else ""
    body = f'{{"model":"{model}",{MESSAGES}{extra},"max_tokens":100}}'.encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def connect(port: int) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


async def p50(port: int, request: bytes, count: int = 400) -> float:
    client, times = await connect(port), []
    for _ in range(count):
        start = time.perf_counter()
        await client.ask(request)
        times.append(time.perf_counter() - start)
    return statistics.median(times[50:]) * 1000


async def load(port: int, request: bytes, width: int, seconds: float) -> float:
    clients = [await connect(port) for _ in range(width)]
    end, count = time.perf_counter() + seconds, 0

    async def run(client: Client) -> None:
        nonlocal count
        while time.perf_counter() < end:
            answer = await client.ask(request)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            count += 1

    start = time.perf_counter()
    await asyncio.gather(*map(run, clients))
    return count / (time.perf_counter() - start)


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def measure(
    name: str,
    gateway: int,
    provider: int,
    key: str,
    pid: int,
    options: Any,
    model: str = "bench",
    path: str = PATH,
) -> None:
    process, ask = psutil.Process(pid), request_for(key, False, model, path)
    direct = await p50(provider, ask)
    await load(gateway, ask, options.concurrency, 1.0)
    through = await p50(gateway, ask)
    before = cpu(process)
    rate = await load(gateway, ask, options.concurrency, options.seconds)
    spent = (cpu(process) - before) / (rate * options.seconds) * 1e6
    print(
        f"{name:10} {rate:6.0f} requests/s at {options.concurrency}   {spent:4.0f} µs CPU a request   "
        f"added p50 {through - direct:5.2f} ms",
        flush=True,
    )
    stream = request_for(key, True, model, path)
    before = cpu(process)
    rate = await load(gateway, stream, 50, options.seconds)
    per_chunk = (cpu(process) - before) / (rate * options.seconds * CHUNKS) * 1e6
    clients = [await connect(gateway) for _ in range(500)]
    asking = [asyncio.create_task(client.ask(stream)) for client in clients]
    most = 0
    while not all(task.done() for task in asking):
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.05)
    print(
        f"{name:10} {rate * CHUNKS:6.0f} chunks/s in 50 streams   {per_chunk:4.0f} µs CPU a chunk, calls included   "
        f"{most / 2**20:.0f} MiB with 500 streams",
        flush=True,
    )


TENSORZERO = """
import sys, tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print(gateway.base_url, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(process: Any) -> Iterator[int]:
    """The id of the started process, which is ended afterwards."""
    process.start()
    try:
        yield process.pid
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def litellm(program: Path, provider: int, folder: Path) -> Iterator[tuple[int, int]]:
    """LiteLLM's proxy in front of the provider; gives its port and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n- model_name: gpt-4o-mini\n  litellm_params:\n    model: openai/gpt-4o-mini\n"
        f"    api_base: http://127.0.0.1:{provider}/v1\n    api_key: none\n"
        "general_settings:\n  master_key: sk-bench\n"
    )
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    quiet = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet)
        try:
            deadline = time.monotonic() + 90
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None, (folder / "litellm.log").read_text()
                assert time.monotonic() < deadline, "the litellm proxy did not come up"
                time.sleep(0.2)
            serving = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            yield port, max(serving, key=lambda one: one.memory_info().rss).pid
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def tensorzero(python: Path, provider: int, folder: Path) -> Iterator[tuple[int, int]]:
    """TensorZero's gateway in front of the provider; gives its port and process."""
    config = folder / "tensorzero.toml"
    config.write_text(
        '[gateway]\nobservability.enabled = false\n[models.gpt-4o-mini]\nrouting = ["canned"]\n'
        '[models.gpt-4o-mini.providers.canned]\ntype = "openai"\nmodel_name = "gpt-4o-mini"\n'
        f'api_base = "http://127.0.0.1:{provider}/v1/"\napi_key_location = "none"\n'
    )
    quiet = {**os.environ, "TOKIO_WORKER_THREADS": "1", "TENSORZERO_DISABLE_PSEUDONYMOUS_USAGE_ANALYTICS": "1"}
    with (folder / "tensorzero.log").open("wb") as log:
        command = [str(python), "-c", TENSORZERO, str(config)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=quiet)
        assert process.stdout is not None
        try:
            address = None
            while address is None:  # it writes its log there, too
                line = process.stdout.readline().decode()
                assert line, (folder / "tensorzero.log").read_text()
                address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/openai/v1\s*", line)
            yield int(address[1]), process.pid
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    from backstay.kernel.embedded import EmbeddedPostgres
    from backstay.kernel.migrate import Migrations
    from backstay.kernel.roles import bootstrap

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--litellm", type=Path, help="the litellm program to measure beside")
    parser.add_argument("--tensorzero", type=Path, help="the python that has the package tensorzero")
    parser.add_argument("--durability", choices=["strict", "relaxed", "both"], default="both")
    options = parser.parse_args()
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}, "
        f"load of other work at the start {load:.1f}"
    )
    modes = ["strict", "relaxed"] if options.durability == "both" else [options.durability]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as database:
        asyncio.run(bootstrap(database.url))
        Migrations(database.url).up()
        ports = context.Queue()
        provider = context.Process(target=provide, args=(ports,), daemon=True)
        provider.start()
        provider_port = ports.get(timeout=30)
        try:
            base = f"http://127.0.0.1:{provider_port}/v1"
            for mode in modes:
                settings = {
                    "database_url": database.url,
                    "master_key": "benchmark-" + "0123456789" * 4,
                    "data_dir": folder,
                    "durability": mode,
                    "openai_base_url": base,
                }
                with running(context.Process(target=serve, args=(ports, settings), daemon=True)) as pid:
                    port, key = ports.get(timeout=60)
                    uvloop.run(measure(mode, port, provider_port, key, pid, options))
            with running(context.Process(target=relay, args=(ports, base), daemon=True)) as pid:
                uvloop.run(measure("floor", ports.get(timeout=60), provider_port, "none", pid, options))
            if options.litellm:
                with litellm(options.litellm, provider_port, Path(folder)) as (port, pid):
                    uvloop.run(measure("litellm", port, provider_port, "sk-bench", pid, options, "gpt-4o-mini"))
            if options.tensorzero:
                model, path = "tensorzero::model_name::gpt-4o-mini", "/openai/v1/chat/completions"
                with tensorzero(options.tensorzero, provider_port, Path(folder)) as (port, pid):
                    uvloop.run(measure("tensorzero", port, provider_port, "none", pid, options, model, path))
        finally:
            provider.terminate()
            provider.join()


if __name__ == "__main__":
    main()
