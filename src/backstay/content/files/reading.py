"""Has a file read by a process of its own, and kills that when it takes too long."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process

import orjson

from .models import FileUnreadable, Kind, Read, ReaderMissing

MAX_BYTES = 64 * 1024 * 1024  # of a file
SECONDS = 60.0
_MAX_TEXT = 32 * 1024 * 1024  # bytes of what is read from it
_HEAD = 200  # bytes of the process' last words that are worth telling


async def read(data: bytes, kind: Kind, *, seconds: float = SECONDS) -> Read:
    """The text of a file. Holds no connection and does not keep the event loop busy.

    Args:
        seconds: how long its process may take.

    Raises:
        FileUnreadable: it is broken, encrypted, too large, takes too long, or has no text (422).
        ReaderMissing: the extra `files` is not installed (409).
    """
    if len(data) > MAX_BYTES:
        raise FileUnreadable(f"the file has {len(data)} bytes; {MAX_BYTES} are the most that is read")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "backstay.content.files.reader", kind.value, str(int(seconds) + 1), str(_MAX_TEXT)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,  # a terminal's Ctrl-C is the caller's to answer
    )
    try:
        async with asyncio.timeout(seconds):
            told, words = await process.communicate(data)
    except TimeoutError:
        raise FileUnreadable(f"reading the file took longer than {seconds:g} seconds") from None
    finally:
        await asyncio.shield(_gone(process))
    if process.returncode:
        last = words.decode(errors="replace").strip().rpartition("\n")[2][:_HEAD]
        how = f"signal {-process.returncode}" if process.returncode < 0 else last or f"exit code {process.returncode}"
        raise FileUnreadable(f"the file could not be read within its bounds of memory and time ({how})")
    return _answer(kind, orjson.loads(told))


def _answer(kind: Kind, told: dict[str, object]) -> Read:
    if missing := told.get("missing"):
        raise ReaderMissing(f"{missing} is not installed: pip install 'backstay[files]'")
    if unreadable := told.get("unreadable"):
        raise FileUnreadable(f"the {kind} file cannot be read: {unreadable}")
    return Read(kind, **told)  # type: ignore[arg-type]  # reader.py says what it writes


async def _gone(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
