"""The documentation as data: every page, its fenced blocks, and what a comment above a block says about it.

A comment on the line above a fence may say

    <!-- not run: reason -->      the block is shown only; without a reason the page is refused
    <!-- run as: command -->      the command is run in the block's place
    <!-- refused: text -->        the database must refuse the block's SQL, with this text in its message
    <!-- prints -->               the block is the output of the one before; `…` stands for anything

A Python block with `title="name.py"` is a file of the reader's program: it is written, not run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN = frozenset({"python", "bash", "sql"})
SHOWN = frozenset({"text", "json", "toml", "http", "nginx", "yaml"})
_FENCE = re.compile(r"^(?P<indent>\s*)```(?P<info>.*)$")
_COMMENT = re.compile(r"^<!--\s*(?P<word>not run|run as|refused|prints)\s*(?::\s*(?P<text>.*?))?\s*-->$")
_TITLE = re.compile(r'title="([\w./-]+)"')


class PageError(AssertionError):
    """A block that the reader cannot trust; says which and what to do."""


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is where its fence stands."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    note: str | None
    note_text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.note != "not run"


def pages() -> list[Path]:
    """README and everything below docs, in a stable order."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Every block of the page, in order.

    Raises:
        PageError: a fence that is not closed, is indented, names no known language, or a comment without its reason.
    """
    return list(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        place = f"{page.relative_to(ROOT)}:{at + 1}"
        end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == "```"), None)
        if end is None:
            raise PageError(f"{place}: the block is not closed")
        if fence["indent"]:
            raise PageError(f"{place}: blocks stand at the margin, where the tests find them")
        language, _, rest = fence["info"].strip().partition(" ")
        if language not in RUN | SHOWN:
            raise PageError(f"{place}: name the block's language: {', '.join(sorted(RUN | SHOWN))}")
        note = _COMMENT.match(lines[at - 1].strip()) if at else None
        if note is not None and note["word"] != "prints" and not note["text"]:
            raise PageError(f"{place}: the comment gives no reason or command")
        title = _TITLE.search(rest)
        yield Block(
            page,
            at + 1,
            language,
            "\n".join(lines[at + 1 : end]) + "\n",
            title[1] if title else None,
            note["word"] if note else None,
            (note["text"] or "") if note else "",
        )
        at = end + 1


def matches(expected: str, printed: str) -> bool:
    """Whether `printed` has the lines of `expected` in this order, `…` standing for any text within a line."""
    patterns = [
        re.compile(".*".join(map(re.escape, line.strip().split("…")))) for line in expected.splitlines() if line.strip()
    ]
    rest = iter(printed.splitlines())
    return all(any(pattern.search(line) for line in rest) for pattern in patterns)
