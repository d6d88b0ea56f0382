"""A whole backend as a user starts it: real processes on a data directory of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import psutil

READY_WITHIN = 60.0


class Backend:
    """`backstay up` on `data_dir`, as a child process whose output can be read."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("BACKSTAY_", "OPENAI_"))},
            "BACKSTAY_DATA_DIR": str(data_dir),
            "BACKSTAY_LEASE_SECONDS": "2",
            **environment,
        }
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()

    def start(self) -> Self:
        """Returns when it says that it is ready."""
        self.output, self._ready = [], threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backstay", "up", "--port", "0"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=[self._process], daemon=True).start()
        deadline = time.monotonic() + READY_WITHIN
        while not self._ready.wait(0.05):
            assert self._process.poll() is None, f"it ended:\n{self.text}"
            assert time.monotonic() < deadline, f"not ready after {READY_WITHIN} s:\n{self.text}"
        return self

    @property
    def text(self) -> str:
        return "".join(self.output)

    @property
    def address(self) -> str:
        return _found(r"reference\s+(http\S+)/docs", self.text)

    @property
    def admin_key(self) -> str:
        return _found(r"admin key\s+(\S+)", self.text)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live; one that was killed and not yet waited for is none."""
        found = []
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # also raised for zombies
                if "worker" in child.cmdline():
                    found.append(child)
        return found

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"authorization": f"Bearer {key}"}, timeout=30)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill_everything(self) -> None:
        """kill -9 of the server, its workers and every Postgres process on the data directory, at once."""
        victims = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True), *self._postgres()]
        for victim in victims:
            with_suppressed(victim.kill)
        psutil.wait_procs(victims, timeout=10)
        assert self._process is not None
        self._process.wait(10)

    def _postgres(self) -> list[psutil.Process]:
        pid_file = self.data_dir / "pg" / "data" / "postmaster.pid"
        postmaster = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        return [postmaster, *postmaster.children(recursive=True)]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.output.append(line)
                if "ready in" in line:
                    self._ready.set()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill_everything()


def with_suppressed(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return  # it went with its parent


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in:\n{text}"
    return match[1]
