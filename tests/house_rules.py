"""Rules of this house that no linter knows. Prints every breach with its mend; exit code 1 when there is one."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LINES = 600
VAGUE = {"utils", "util", "common", "helpers", "misc"}
SQL = re.compile(r"[\"']\s*(select|insert into|update|delete from)\s+\w", re.IGNORECASE)
SILENCED = re.compile(r"# (noqa|type: ignore)(?![:\[])")
ADDRESS = re.compile(r"/simple/|\.whl\b.*https?://|https?://[^\s\"']+\.(whl|tar\.gz)")


def breaches() -> Iterator[str]:
    for path in _tracked("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MAX_LINES:
            yield f"{_name(path)} has {lines} lines: split it by noun (at most {MAX_LINES})"
        if path.stem in VAGUE:
            yield f"{_name(path)}: name the file after the noun it holds"
        for number, line in enumerate(text.splitlines(), 1):
            if SILENCED.search(line) and path != Path(__file__):
                yield f"{_name(path)}:{number}: a silenced check names the rule it silences"
        if path.name in ("service.py", "http.py", "worker.py", "cli.py") and SQL.search(text):
            yield f"{_name(path)} has SQL text: it belongs in queries.sql"
    for path in _tracked("requirements/*.txt"):
        if ADDRESS.search(path.read_text(encoding="utf-8")) or "://" in path.read_text(encoding="utf-8"):
            yield f"{_name(path)} names an address: make it with `make requirements`"


def _tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", pattern],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    found = list(breaches())
    print("\n".join(found) or "house rules: kept")
    sys.exit(1 if found else 0)
