"""The command `backstay`: sets the process up, then hands over to `commands`."""

import os
import sys
from pathlib import Path

_LONG_RUNNING = {"up", "serve", "worker"}


def main() -> None:
    """Runs the command line. Errors of ours are one line with a mend, and exit code 1."""
    if len(sys.argv) > 1 and sys.argv[1] in _LONG_RUNNING:
        _share_metrics()
    # Imported late: the metrics library decides on import whether processes share their figures.
    from .commands import commands
    from .kernel.errors import BackstayError

    try:
        commands()
    except BackstayError as error:
        sys.exit(f"backstay: {error.detail}")
    except KeyboardInterrupt:
        sys.exit(130)


def _share_metrics() -> None:
    """Lets the processes of one data directory add their figures up, so that `/metrics` tells of the workers too."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return
    directory = Path(os.environ.get("BACKSTAY_DATA_DIR", ".backstay")).absolute() / "metrics"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # the start reports the unusable directory with its mend
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
