"""The processes of the embedded server: which they are, whether they live, how they are told to end."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from .postgres_errors import DataDirUnusable, unusable


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What postmaster.pid says about the server. It may be stale."""

    pid: int
    ready: bool


def postmaster(data: Path) -> Postmaster | None:
    """What postmaster.pid says, or None when there is none (or it is being written)."""
    try:
        lines = read(data / "postmaster.pid").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(data, error) from None
    if not lines or not lines[0].strip().isdigit():
        return None
    return Postmaster(pid=int(lines[0]), ready=len(lines) > 7 and lines[7].strip() == "ready")


def is_postmaster(pid: int, data: Path) -> bool:
    """Whether that process is a living Postgres of the account that owns `data`.

    Together with a taken `server.lock` this makes it the server: postmaster.pid is removed before every boot.
    """
    try:
        process = psutil.Process(pid)
        owner = data.lstat().st_uid
        return process.name() == "postgres" and process.uids().real == owner and alive(pid)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def orphans(data: Path) -> list[int]:
    """Processes that outlived their server (busy ones notice its death late), of the account that owns `data`."""
    owner = data.lstat().st_uid
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() != "postgres" or process.uids().real != owner:
                continue
            parent = process.parent()
            child = " ".join(process.cmdline()).startswith("postgres: ")
            if child and (parent is None or parent.name() != "postgres") and _works_in(process, data):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue  # ended meanwhile
    return found


def alive(pid: int) -> bool:
    """Whether the process exists and has not ended: where nobody reaps orphans, it stays in the list as a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def send(pid: int, kind: signal.Signals) -> None:
    """Sends a signal; a process that has ended by itself meanwhile is fine."""
    try:
        os.kill(pid, kind)
    except ProcessLookupError:
        return
    except PermissionError:
        raise DataDirUnusable(
            f"process {pid} of the embedded database belongs to another account, and this one may not stop it. "
            "Stop it as its owner or as root."
        ) from None


def read(path: Path) -> str:
    """The text of a file that belongs to the server's account. No link is followed: the reader may be root."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8", errors="replace") as file:
        return file.read()


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        return os.path.samefile(process.cwd(), data)
    except (psutil.AccessDenied, OSError):
        # Root in a container may not look. At worst it is an orphan of a neighbour's dead server, and was to end.
        return True
