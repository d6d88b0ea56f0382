"""A process that runs CPU-bound handlers for a worker, one after the other. Started by `processes.py`.

Standard input brings calls, standard output takes answers back, each a pickle behind its length. When the worker goes,
however suddenly, standard input ends and so does this process, in the middle of a call as well.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO
from uuid import UUID

from .handlers import Job
from .signals import Cancel, Discard, RetryLater, Snooze

_LENGTH = 4
_ASIDE: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """What a handler in a process of its own may know of its attempt: there is no database here."""

    tenant: UUID
    job: UUID
    name: str
    queue: str
    attempt: int
    fence: int
    deadline: datetime | None

    def progress(self, fraction: float, note: str | None = None) -> None:
        """As JobContext.progress."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction!r}")
        _ASIDE["answers"].send(("progress", float(fraction), note))


class Answers:
    """Writes frames; threads of a handler may tell of progress at the same time."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lock = out, threading.Lock()

    def send(self, answer: tuple[Any, ...]) -> None:
        data = pickle.dumps(answer)
        with self._lock:
            self._out.write(len(data).to_bytes(_LENGTH, "big") + data)
            self._out.flush()


def function_at(place: str) -> Any:
    """The function at `module:name`; the decorator of jobs put a Job in its place."""
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found.function if isinstance(found, Job) else found


def outcome_of(call: bytes) -> tuple[Any, ...]:
    """Runs one call; what it raised is told as data, since not every exception can be pickled."""
    try:
        place, context, input = pickle.loads(call)  # noqa: S301 -- the worker that started us wrote it
        function_at(place)(context, input)
    except Snooze as told:
        return "snooze", told.after, told.reason
    except RetryLater as told:
        return "retry", told.reason, told.after
    except Cancel as told:
        return "cancel", told.reason
    except Discard as told:
        return "discard", told.reason
    except BaseException as error:
        return "retry", f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, None
    return ("done",)


def _read(calls: BinaryIO, into: queue.SimpleQueue[bytes]) -> None:
    while len(head := calls.read(_LENGTH)) == _LENGTH:
        into.put(calls.read(int.from_bytes(head, "big")))
    os._exit(0)


def main() -> None:
    """Until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what handlers print goes to the log
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _ASIDE["answers"] = answers = Answers(out)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=[calls, waiting], daemon=True).start()
    sys.path[:] = pickle.loads(waiting.get())  # noqa: S301 -- the worker that started us wrote it
    while True:
        outcome = outcome_of(waiting.get())
        with contextlib.suppress(BrokenPipeError):  # the worker went; the reader ends this process
            answers.send(outcome)
