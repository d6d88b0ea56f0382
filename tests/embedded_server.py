"""For the tests of the embedded server: one ready cluster, copied per test, and processes that use it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from backstay.kernel import postgres_process as processes
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.postgres_locks import FileLock

# Prints the server's pid once it has it, and gives up its hold at the end of its input.
USER = """
import sys
from pathlib import Path
from backstay.kernel.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a cluster that was started once and stopped."""
    place = tmp_path_factory.mktemp("embedded") / "template"
    with EmbeddedPostgres(place):
        pass
    _end(place)
    return place


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the template, owners and modes kept. Its server does not outlive the test, whatever happened to it."""
    place = tmp_path / "data"
    subprocess.run(["cp", "-a", template, place], check=True)
    yield place
    _end(place)


@pytest.fixture
def empty_dir(tmp_path: Path) -> Iterator[Path]:
    """A place for a data directory that does not exist yet."""
    place = tmp_path / "empty"
    yield place
    _end(place)


def user_of(data_dir: Path, **options: Any) -> "subprocess.Popen[str]":
    """Another process that holds the server. Reading its first line waits for it; `leave` ends it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", USER, data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def server_of(user: "subprocess.Popen[str]") -> int:
    """The pid of the server that `user` got; waits for it."""
    assert user.stdout is not None
    line = user.stdout.readline()
    assert line, "the user ended before it had a server"
    return int(line)


def leave(user: "subprocess.Popen[str]") -> None:
    """Ends a user in order."""
    user.communicate(timeout=60)
    assert user.returncode == 0


def kill(user: "subprocess.Popen[str]") -> None:
    """kill -9."""
    user.kill()
    user.communicate(timeout=60)


def ask(url: str, question: str) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(question).fetchone()  # type: ignore[arg-type]
    return row and row[0]


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], limit: float = 30.0) -> None:
    """Waits for a condition of another process, which cannot signal us."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def _end(place: Path) -> None:
    data = place / "pg" / "data"
    found = processes.postmaster(data) if data.is_dir() else None
    lock = FileLock(place / "pg" / "server.lock")
    if found is None or lock.take():
        lock.release()
        return
    os.kill(found.pid, signal.SIGQUIT)
    until(lock.take)
    lock.release()
