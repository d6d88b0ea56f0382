"""Handlers that run in processes of their own; those import them from here."""

import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from backstay.jobs import Cancel, Discard, ProcessContext, RetryLater, Snooze


class Work(BaseModel):
    """What to do, and a folder to say so."""

    do: str = "note"
    folder: Path
    name: str = "work"


def crunch(context: ProcessContext, work: Work) -> None:
    with (work.folder / f"{work.name}.{context.attempt}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    print("printed by a handler: it must not reach the worker's answers")
    match work.do:
        case "kill":
            if context.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            while not (work.folder / "go").exists():
                time.sleep(0.01)
        case "spin":
            child = subprocess.Popen(["sleep", "600"])
            (work.folder / "child").write_text(str(child.pid))
            while True:
                pass
        case "tell":
            context.progress(0.5, "half of it")
            while not (work.folder / "go").exists():
                time.sleep(0.01)
        case "snooze":
            raise Snooze(timedelta(hours=1), "too early")
        case "retry":
            raise RetryLater("busy", timedelta(hours=1))
        case "cancel":
            raise Cancel("not needed")
        case "discard":
            raise Discard("broken")
        case "fail":
            raise Unpicklable(lambda: None)


class Unpicklable(Exception):
    """Carries what no pickle can."""

    def __str__(self) -> str:
        return "cannot be pickled"
