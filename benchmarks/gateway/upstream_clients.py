"""Compares HTTP clients for the gateway's way out: plain answers and streams, with and without TLS.

    python benchmarks/gateway/upstream_clients.py            # aiohttp, and pyreqwest when it is installed

A canned server runs in its own process on loopback, so that the figures are the client's. Printed for each client:
requests/s and CPU per request at 64 in flight, p50 of one call at a time, CPU per streamed chunk.
"""

import asyncio
import contextlib
import datetime
import multiprocessing
import os
import platform
import ssl
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 400 + b'"}]}'
USAGE = b'"usage":{"prompt_tokens":100,"completion_tokens":100,"total_tokens":200}'
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"' + b"y" * 400 + b'"},"finish_reason":"stop"}],' + USAGE + b"}"
)
CHUNK = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"word "}}]}\n\n'
END = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"
)
CHUNKS = 100


class Canned(asyncio.Protocol):
    """Answers /plain with one body and /stream with CHUNKS chunks, each in its own write."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0 and len(self.buffer) >= end + 4 + len(BODY):
            head, self.buffer = self.buffer[:end], self.buffer[end + 4 + len(BODY) :]
            self.answer(b"/stream" in head[:40])

    def answer(self, stream: bool) -> None:
        if stream:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self.transport.write(head)
            self.left = CHUNKS
            self.next()
        else:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(head % len(ANSWER) + ANSWER)

    def next(self) -> None:
        if self.left:
            self.left -= 1
            self.transport.write(b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK))
            asyncio.get_running_loop().call_later(0.0005, self.next)
        else:
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(END), END))


def serve(ports: Any, certificate: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        plain = await loop.create_server(Canned, "127.0.0.1", 0, backlog=1024)
        tls = await loop.create_server(Canned, "127.0.0.1", 0, backlog=1024, ssl=context)
        ports.put((plain.sockets[0].getsockname()[1], tls.sockets[0].getsockname()[1]))
        await asyncio.Event().wait()

    import uvloop

    uvloop.run(main())


Call = Callable[[str], Awaitable[int]]


@contextlib.asynccontextmanager
async def aiohttp_call(authority: str) -> AsyncIterator[Call]:
    import aiohttp

    context = ssl.create_default_context(cafile=authority)
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def call(url: str) -> int:
            seen = 0
            async with session.post(url, data=BODY, headers={"content-type": "application/json"}) as answer:
                async for part in answer.content.iter_any():
                    seen += part.count(b"data:")
            return seen

        yield call


@contextlib.asynccontextmanager
async def pyreqwest_call(authority: str) -> AsyncIterator[Call]:
    from pyreqwest.client import ClientBuilder

    pem = Path(authority).read_bytes()  # noqa: ASYNC240 -- before anything is measured
    builder = ClientBuilder().add_root_certificate_pem(pem).timeout(datetime.timedelta(seconds=60))
    async with builder.build() as client:

        async def call(url: str) -> int:
            seen = 0
            request = client.post(url).header("content-type", "application/json").body_bytes(BODY)
            async with request.build_streamed() as answer:
                while (part := await answer.body_reader.read_chunk()) is not None:
                    seen += bytes(part).count(b"data:")
            return seen

        yield call


async def rate(call: Call, url: str, total: int, width: int) -> tuple[float, float]:
    """Requests per second and CPU microseconds of this process per request."""
    left = iter(range(total))

    async def run() -> None:
        for _ in left:
            await call(url)

    await asyncio.gather(*(run() for _ in range(width)))
    left = iter(range(total))
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(run() for _ in range(width)))
    return total / (time.perf_counter() - wall), (time.process_time() - cpu) / total * 1e6


async def p50(call: Call, url: str, total: int = 1000) -> float:
    times = []
    for _ in range(total):
        start = time.perf_counter()
        await call(url)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


async def measure(name: str, make: Any, ports: tuple[int, int], authority: str) -> None:
    async with make(authority) as call:
        for scheme, port in zip(("http", "https"), ports, strict=True):
            base = f"{scheme}://localhost:{port}"
            one = await p50(call, f"{base}/plain")
            per_second, cpu = await rate(call, f"{base}/plain", 4000, 64)
            assert await call(f"{base}/stream") == CHUNKS + 2
            _, stream_cpu = await rate(call, f"{base}/stream", 200, 50)
            print(
                f"{name:10} {scheme:5} p50 {one:6.3f} ms   {per_second:7.0f} requests/s   "
                f"{cpu:6.0f} µs CPU a request   {stream_cpu / CHUNKS:6.1f} µs CPU a chunk",
                flush=True,
            )


def make_certificates(folder: str) -> tuple[str, str]:
    """An authority and a certificate it signed for localhost. Returns (server's PEM file, authority's PEM file)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(name: str, public: Any, authority: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark authority")]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(root_key, hashes.SHA256())
        )

    pem = serialization.Encoding.PEM
    root = certificate("benchmark authority", root_key.public_key(), True).public_bytes(pem)
    leaf = certificate("localhost", key.public_key(), False).public_bytes(pem)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = os.path.join(folder, "server.pem"), os.path.join(folder, "authority.pem")
    for path, content in zip(files, (private + leaf, root), strict=True):
        with open(path, "wb") as file:
            file.write(content)
    return files


def main() -> None:
    import uvloop

    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        certificate, authority = make_certificates(folder)
        ports: Any = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(ports, certificate), daemon=True)
        server.start()
        try:
            both = ports.get(timeout=20)
            for name, make in (("aiohttp", aiohttp_call), ("pyreqwest", pyreqwest_call)):
                try:
                    uvloop.run(measure(name, make, both, authority))
                except ImportError:
                    print(f"{name:10} is not installed")
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
