"""Identifiers: version 7, rising within a process, unlike between processes."""

import subprocess
import sys
import threading
import time
from uuid import RFC_4122, UUID

import pytest

from backstay.kernel import ids
from backstay.kernel.ids import new_id


def test_they_are_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000
    id = new_id()
    assert (id.version, id.variant) == (7, RFC_4122)
    assert before <= id.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_they_rise_strictly_within_a_process() -> None:
    made = [new_id() for _ in range(50_000)]
    assert made == sorted(set(made))


def test_they_rise_although_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1)
    second = new_id()
    assert first < second
    assert (second.version, second.variant) == (7, RFC_4122)


def test_threads_never_share_one() -> None:
    made: list[list[UUID]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda place=place: place.extend(new_id() for _ in range(5_000)))  # type: ignore[misc]
        for place in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id for place in made for id in place}) == 20_000


def test_a_forked_process_shares_none() -> None:
    program = """
import os
from backstay.kernel.ids import new_id
new_id()
os.fork()
print(*(new_id().int & (1 << 32) - 1 for _ in range(300)), flush=True)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    ours, theirs = (set(line.split()) for line in said.splitlines())
    assert not ours & theirs


def test_processes_never_share_one() -> None:
    program = "from backstay.kernel.ids import new_id\nfor _ in range(2000): print(new_id())"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = [line for process in processes for line in process.communicate()[0].split()]
    assert len(set(made)) == len(made) == 6_000
