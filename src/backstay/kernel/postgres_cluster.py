"""The files of the embedded server: made, checked, configured, and explained when they are damaged."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from . import postgres_config
from .errors import ConfigurationError
from .postgres_account import POSTGRES_MAJOR, Account
from .postgres_errors import DataCorrupted, DataDirUnusable, DiskFull, OtherPostgresMajor, PostgresFailed, unusable
from .postgres_locks import give_to_owner_of_directory
from .postgres_process import read
from .postgres_socket import LOGIN, SOCKET_FILE

ROOM = 256 * 1024 * 1024  # bytes a new cluster needs to get going: itself, and its first log segments
LOG_LIMIT = 10 * 1024 * 1024  # bytes, then the log is put aside at the next boot

_DAMAGE = re.compile(
    r"PANIC:|could not locate a valid checkpoint|invalid (checkpoint|page|magic)|incorrect checksum|corrupt|"
    r"could not (open|read) (file|directory) \"?(base|global|pg_)|is not a valid data directory|"
    r"control file|invalid data in file|contains (invalid|incorrect)"
)


def prepare(home: Path) -> None:
    """Makes the directories around the cluster.

    Raises:
        DataDirUnusable: not permitted, or something else is in the way.
        DiskFull: no room for them.
    """
    # The account Postgres runs as must pass through when it is not ours; others can neither list nor write.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # other secrets lie there too
        for directory in (home, home / "live"):
            directory.mkdir(mode=mode, exist_ok=True)
    except OSError as error:
        raise unusable(home, error) from None


def create(data: Path, programs: Path, account: Account) -> None:
    """Makes a new cluster at `data`: all of it, safely on disk, or nothing.

    Raises:
        DiskFull: no room for it.
        DataDirUnusable: its directory cannot be made or handed to `account`, or the account has no name.
        PostgresFailed: initdb failed; the detail has its words.
    """
    if not account.named:
        raise DataDirUnusable(
            f"this process runs as {account.name}, which has no name on this machine, and Postgres makes a database "
            f"only for an account with a name. Add it: echo 'backstay:x:{account.uid}:{account.gid}::/:/bin/sh' >> "
            "/etc/passwd, or set BACKSTAY_DATABASE_URL to a server of your own."
        )
    free = shutil.disk_usage(data.parent).free
    if free < ROOM:
        raise DiskFull(
            f"{data.parent} has {free // 2**20} MB left, and a new database needs {ROOM // 2**20} MB. "
            "Free some space, or choose a BACKSTAY_DATA_DIR on a larger disk."
        )
    building = data.with_name("data.new")  # an interrupted attempt leaves only this
    try:
        # C.UTF-8 knows the letters of all languages, sorts the same on every machine, and needs no library whose
        # upgrade would corrupt indexes. The C library's part, which text search asks, may lack it: plain C then.
        said = _initdb(building, programs, account, "C.UTF-8")
        if "invalid locale name" in said:
            said = _initdb(building, programs, account, "C")
        if said:
            raise explain(data, said)
        settings = read(building / "postgresql.conf") + postgres_config.INCLUDE
        write(building / "postgresql.conf", settings, account)
        write(building / "pg_hba.conf", postgres_config.HBA, account)
        write(building / "backstay.conf", postgres_config.render_for_this_machine(), account)
        said = _run([programs / "initdb", "--sync-only", "-D", account.path_of(building)], building, account)
        if said:
            raise explain(data, said)
        building.rename(data)
        _sync(data.parent)
    except OSError as error:
        raise unusable(data, error) from None


def check(data: Path) -> None:
    """Refuses a cluster this Postgres cannot read.

    Raises:
        OtherPostgresMajor: made by another major version.
        DataCorrupted: not a cluster, or its most important file is missing.
    """
    try:
        major = read(data / "PG_VERSION").strip()
    except FileNotFoundError:
        raise DataCorrupted(
            f"{data} is not a database directory: PG_VERSION is missing. Restore it from a backup, or move it "
            "away to begin with an empty database."
        ) from None
    except OSError as error:
        raise unusable(data, error) from None
    if major != str(POSTGRES_MAJOR):
        raise OtherPostgresMajor(
            f"{data} was written by Postgres {major}, and this Backstay brings Postgres {POSTGRES_MAJOR}. Dump "
            f"it with the Backstay that wrote it (`backstay db dump FILE`), move {data} away, and restore with "
            "this one (`backstay db restore FILE`)."
        )


def configure(data: Path, account: Account) -> None:
    """Writes the settings of this boot."""
    try:
        write(data / "backstay.conf", postgres_config.render_for_this_machine(), account)
    except OSError as error:
        raise unusable(data, error) from None


def remove_traces_of_a_dead_server(home: Path) -> None:
    """Removes what a killed server left. Only while holding `server.lock`, which proves that none of it lives.

    Postgres would look for the process ids in these files, and in a container that was started again those soon
    belong to somebody else.
    """
    try:
        (home / "data" / "postmaster.pid").unlink(missing_ok=True)
        (home / "socket" / SOCKET_FILE).unlink(missing_ok=True)
        (home / "socket" / f"{SOCKET_FILE}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise unusable(home, error) from None


def open_log(path: Path) -> IO[bytes]:
    """The server's log, to be appended to; a long one is put aside first."""
    try:
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.rename(path.with_suffix(".log.1"))
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        give_to_owner_of_directory(fd, path)
    except OSError as error:
        raise unusable(path, error) from None
    return os.fdopen(fd, "wb")


def tail(log: Path, start: int) -> str:
    """The last lines that the server logged after byte `start`."""
    with log.open("rb") as lines:
        lines.seek(max(start, log.stat().st_size - 3000))
        return "\n".join(lines.read().decode(errors="replace").splitlines()[-15:])


def explain(data: Path, said: str) -> ConfigurationError:
    """The error that fits to what Postgres said when it failed."""
    if "No space left on device" in said:
        return DiskFull(f"no space is left for {data}. Free some, then start again. Postgres said:\n{said}")
    if "database files are incompatible with server" in said:
        return OtherPostgresMajor(f"{data} was written by another Postgres. It said:\n{said}")
    if _DAMAGE.search(said):
        return DataCorrupted(
            f"the files in {data} are damaged. Move them away and restore a backup (`backstay db restore FILE`). "
            f"Postgres said:\n{said}"
        )
    return PostgresFailed(f"the embedded database in {data} did not start. Postgres said:\n{said}")


def write(path: Path, text: str, account: Account) -> None:
    """Replaces the file at once. Safe as root in a directory that the account owns: no link is followed."""
    fd, made = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if account.other:
                os.fchown(fd, account.uid, account.gid)
        os.rename(made, path)
    except BaseException:
        os.unlink(made)
        raise


def _initdb(building: Path, programs: Path, account: Account, ctype: str) -> str:
    """Fills `building` anew, not yet synced to disk. Returns what initdb complained about, or nothing."""
    if building.exists():
        shutil.rmtree(building)
    building.mkdir(mode=0o700)
    account.own(building)
    return _run(
        [
            *(programs / "initdb", "-D", account.path_of(building), f"--username={LOGIN}", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", f"--lc-ctype={ctype}"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "--data-checksums"),
            *("--no-sync", "--no-instructions"),
        ],
        building,
        account,
    )


def _run(command: list[str | Path], place: Path, account: Account) -> str:
    """Returns nothing when the program succeeds, else its last words."""
    result = subprocess.run(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        **account.spawn(),
    )
    if result.returncode == 0:
        return ""
    return "\n".join(result.stdout.splitlines()[-15:]) or f"{command[0]} ended with {result.returncode}"


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
