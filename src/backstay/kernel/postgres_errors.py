"""What can be wrong with the embedded database, each as its own error: the operator mends, then starts again."""

import errno
from pathlib import Path

from .errors import ConfigurationError, Unavailable


class DataDirUnusable(ConfigurationError):
    """The data directory cannot be written, entered, locked or owned as it must be."""

    code, title = "data_dir_unusable", "Data directory unusable"


class OtherPostgresMajor(ConfigurationError):
    """The data were written by another major version of Postgres, whose files this one cannot read."""

    code, title = "postgres_major", "Data of another Postgres version"


class DataCorrupted(ConfigurationError):
    """Postgres found its own files damaged or missing."""

    code, title = "data_corrupted", "Database files damaged"


class DiskFull(ConfigurationError):
    """There is no room left where the data lie."""

    code, title = "disk_full", "Disk full"


class PostgresFailed(ConfigurationError):
    """Postgres did not come up; the detail ends with what it last logged."""

    code, title = "postgres_failed", "Database did not start"


class PostgresBusy(Unavailable):
    """Another process is starting or stopping the same database, and takes too long."""

    code, title = "postgres_busy", "Database is starting or stopping"


def unusable(path: Path, error: OSError) -> ConfigurationError:
    """What the operator should hear when the system refuses `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space is left for {path}. Free some, or choose another BACKSTAY_DATA_DIR.")
    return DataDirUnusable(
        f"{error.filename or path} cannot be used ({error.strerror}). Make it readable and writable for this "
        "account, or choose another BACKSTAY_DATA_DIR."
    )
