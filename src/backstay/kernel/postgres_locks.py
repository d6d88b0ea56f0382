"""File locks by which processes share one embedded server. They end with their holder, even on kill -9.

lock          held while starting or stopping: one process at a time decides
live/…        one file per user of the server, locked while that user lives
server.lock   inherited by the server and all its processes: taken means that some of them still run
"""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .postgres_errors import DataDirUnusable, PostgresBusy

PATIENCE = 330.0  # seconds; longer than a start after a crash may take


class FileLock:
    """An exclusive lock on a file, held until `release` or until the last process that inherited it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    @property
    def held(self) -> bool:
        return self.fd >= 0

    def take(self) -> bool:
        """Takes the lock, or says at once that another holds it."""
        try:
            # Never through a link: as root, we also work in directories that others own.
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirUnusable(
                f"{self.path} cannot be opened ({error.strerror}). Make its directory writable for this "
                "account, or choose another BACKSTAY_DATA_DIR."
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise DataDirUnusable(
                f"{self.path} cannot be locked ({error.strerror}): its file system has no file locks. "
                "Choose a BACKSTAY_DATA_DIR on a local disk."
            ) from None
        give_to_owner_of_directory(fd, self.path)
        self.fd = fd
        return True

    def wait(self, timeout: float) -> bool:
        """Takes the lock within `timeout` seconds, or returns False."""
        deadline = time.monotonic() + timeout
        while not self.take():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def release(self) -> None:
        """Closes our hold. Processes that inherited it keep the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class LiveUser:
    """This process among the users of the server."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: FileLock | None = None
        self._process = 0

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy of its parent's registration."""
        return self._lock is not None and self._process != os.getpid()

    @property
    def registered(self) -> bool:
        return self._lock is not None

    def register(self) -> None:
        """Call while holding `lock`."""
        if self.inherited:
            self.forget()
        if self._lock is None:
            lock = FileLock(self._directory / f"{os.getpid()}-{secrets.token_hex(4)}")
            lock.take()
            self._lock = lock
            self._process = os.getpid()

    def leave(self) -> None:
        """Call while holding `lock`."""
        if self._lock is not None:
            self._lock.path.unlink(missing_ok=True)
            self.forget()

    def forget(self) -> None:
        """Closes what a forked child inherited, without ending the parent's registration."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def others(self) -> int:
        """How many other users live. Removes the files of dead ones. Call while holding `lock`."""
        living = 0
        for path in self._directory.iterdir():
            if self._lock is not None and path == self._lock.path:
                continue
            other = FileLock(path)
            if other.take():
                path.unlink(missing_ok=True)
                other.release()
            else:
                living += 1
        return living


@contextmanager
def deciding(path: Path) -> Iterator[None]:
    """Holds the lock under which the server is started and stopped.

    Raises:
        PostgresBusy: another process has been at it for longer than any start takes.
    """
    lock = FileLock(path)
    if not lock.wait(PATIENCE):
        raise PostgresBusy(
            f"another process has held {path} for {PATIENCE:.0f} seconds. See whether it hangs: "
            f"`fuser {path}` names it."
        )
    try:
        yield
    finally:
        lock.release()


def give_to_owner_of_directory(fd: int, path: Path) -> None:
    """Hands the open file at `path` over, when we are root working in an ordinary user's directory."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != os.fstat(fd).st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)
