"""Runs processes: the API server, workers, and both together with their supervision (`up`)."""

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import uvicorn
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from . import __version__
from .app import App
from .auth import IssuedKey
from .kernel import garbage, telemetry
from .kernel.corked import CorkedProtocol
from .kernel.errors import ConfigurationError
from .kernel.principal import Principal
from .kernel.settings import Settings
from .kernel.telemetry import scrub

_DRAIN_SECONDS = 10
_RESTART_AFTER = (0.2, 1.0, 5.0)  # seconds before a dead worker is started again; the last for good
_SETTLED = 30.0  # a worker that lived this long has earned the first pause again
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = telemetry.log("server")


def load(settings: Settings) -> App:
    """The App to run: the user's own (`BACKSTAY_APP=module:attribute`), or a plain one.

    Raises:
        ConfigurationError: the module or attribute is not there or is no App.
    """
    if settings.app is None:
        return App(settings)
    module, _, attribute = settings.app.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute or "app")
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"BACKSTAY_APP={settings.app} cannot be loaded: {error}. It is written module:attribute."
        ) from error
    if not isinstance(found, App):
        raise ConfigurationError(f"BACKSTAY_APP={settings.app} is a {type(found).__name__}, not a backstay.App")
    return found


async def up(settings: Settings, out: Console) -> None:
    """Database, migrations, API and workers, until a signal ends them all."""
    begun = psutil.Process().create_time()  # imports included: the user waits for them too
    out.print(f"[bold]Backstay[/] {__version__}")
    _forget_dead_metrics()
    listener = _listen(settings)
    app = load(settings)
    try:
        building = asyncio.create_task(_built(app))
        await app.start(migrate=True, on_progress=lambda line: out.print(f"  {line}"))
        issued = await app.ensure_admin()
        await building
        workers = [WorkerProcess() for _ in range(settings.workers)]
        stop = _on_signal()
        tasks = [asyncio.create_task(worker.keep_running(stop)) for worker in workers]
        out.print(f"  workers     {settings.workers} × {settings.worker_concurrency} jobs at once")
        server = asyncio.create_task(_http(app, settings, listener, stop))
        await _answering(listener)
        address = _address(settings, listener)
        out.print(f"  reference   {address}/docs")
        out.print(f"  API         {address}/v1 (OpenAI, Anthropic), {address}/v1beta (Gemini), {address}/api")
        _show_once(issued, out)
        garbage.settle()
        out.print(f"  ready in {time.time() - begun:.1f} s. Ctrl-C stops everything; nothing is lost.")
        await server
        await asyncio.gather(*tasks)
    finally:
        listener.close()
        await app.stop()
    out.print("stopped")


async def serve(settings: Settings, out: Console) -> None:
    """The API alone; refuses a database whose schema is not the one it knows."""
    listener = _listen(settings)
    app = load(settings)
    try:
        building = asyncio.create_task(_built(app))
        await app.start(migrate=False)
        issued = await app.ensure_admin()
        await building
        garbage.settle()
        out.print(f"serving {_address(settings, listener)}")
        _show_once(issued, out)
        await _http(app, settings, listener, _on_signal())
    finally:
        listener.close()
        await app.stop()


async def work(settings: Settings, queues: Sequence[str] | None, out: Console, *, with_parent: bool = False) -> None:
    """A worker, until a signal (or, `with_parent`, the end of standard input) asks it to drain."""
    app = load(settings)
    try:
        await app.start(migrate=False)
        stop = _on_signal()
        if with_parent:
            _stop_at_end_of_input(stop)
        else:
            out.print(f"working, {settings.worker_concurrency} jobs at once")
        await app.content.sweep()
        await app.retention.ensure_schedule(app.default_tenant)
        worker = app.jobs.worker(queues=queues, concurrency=settings.worker_concurrency)
        garbage.settle()
        await worker.run(stop)
    finally:
        await app.stop()


class WorkerProcess:
    """A worker as a child process that is started again when it dies."""

    def __init__(self) -> None:
        self._deaths = 0

    async def keep_running(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set and the worker has drained."""
        while not stop.is_set():
            begun = time.monotonic()
            # Its standard input is a pipe from us: when we die, however suddenly, it ends and the worker drains.
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "backstay", "worker", "--with-parent"],
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us; we tell the workers
            )
            ended = asyncio.create_task(process.wait())
            asked = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                await _end(process)
                return
            asked.cancel()
            await self._pause(process.returncode, time.monotonic() - begun, stop)

    async def _pause(self, code: int | None, lived: float, stop: asyncio.Event) -> None:
        self._deaths = 0 if lived > _SETTLED else self._deaths
        pause = _RESTART_AFTER[min(self._deaths, len(_RESTART_AFTER) - 1)]
        self._deaths += 1
        _log.error("worker died; starting another", exit_code=code, lived=round(lived, 1), pause=pause)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()


async def create_key(settings: Settings, name: str, role: str, feature: str | None, out: Console) -> None:
    """Creates a key in the default tenant and prints its secret."""
    async with App(settings) as app:
        operator = Principal.system(app.default_tenant, "operator")
        issued = await app.auth.create_key(operator, name, role, feature=feature)
    out.print(issued.secret)


async def list_keys(settings: Settings, out: Console) -> None:
    """Prints the keys of the default tenant."""
    async with App(settings) as app:
        keys = await app.auth.keys(Principal.system(app.default_tenant, "operator"), None, 200)
    for key in keys:
        state = "revoked" if key.revoked_at else "active"
        out.print(f"{key.id}  {key.prefix:<18} {key.role:<10} {state:<8} {key.principal}")


def masked(value: object) -> str:
    """A setting as it may be shown."""
    if isinstance(value, SecretStr):
        return "••••••••"
    return "" if value is None else scrub(str(value))


def _show_once(issued: IssuedKey | None, out: Console) -> None:
    if issued is not None:
        out.print(f"  admin key   [bold]{escape(issued.secret)}[/]  (shown this once: keep it)")


async def _built(app: App) -> None:
    """Makes the API in a thread: importing the web framework takes as long as the database takes to start."""
    await asyncio.to_thread(getattr, app, "api")


async def _http(app: App, settings: Settings, listener: socket.socket, stop: asyncio.Event) -> None:
    config = uvicorn.Config(
        app,
        loop="none",
        http=CorkedProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)

    async def end() -> None:
        await stop.wait()
        app.drain()
        server.should_exit = True

    ending = asyncio.create_task(end())
    with contextlib.ExitStack() as stack:
        # Signals are ours: uvicorn would raise them again after its own shutdown and cut ours short.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        stack.callback(ending.cancel)
        await server.serve(sockets=[listener])


def _on_signal() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; the second one ends the process the hard way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def received(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number)
    return stop


def _stop_at_end_of_input(stop: asyncio.Event) -> None:
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def ended() -> None:
        loop.remove_reader(descriptor)  # an ended pipe stays readable for ever
        stop.set()

    loop.add_reader(descriptor, ended)


def _listen(settings: Settings) -> socket.socket:
    """Binds before anything slow happens, so that a taken port is told at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Stop what listens there, or set "
            "BACKSTAY_HOST or BACKSTAY_PORT (--port) to another one."
        ) from None
    return listener


async def _answering(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
            continue
        writer.close()
        return


def _address(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            await process.wait()
    except TimeoutError:
        _log.error("worker did not drain in time; killing it", pid=process.pid)
        process.kill()
        await process.wait()


def _forget_dead_metrics() -> None:
    """Figures of earlier boots: a fresh `up` starts counting from zero."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(directory).glob("*.db") if directory else ():
        pid = file.stem.rpartition("_")[2]
        if not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)
