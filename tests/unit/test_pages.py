"""The checks of the documentation find what they are there to find."""

from pathlib import Path

import pytest

import pages
from pages import Block, PageError, blocks, matches


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    return tmp_path / "page.md"


def read(page: Path, *lines: str) -> list[Block]:
    page.write_text("\n".join(lines), encoding="utf-8")
    return blocks(page)


def test_a_block_is_run_unless_the_page_says_why_not(page: Path) -> None:
    first, second = read(page, "```bash", "ls", "```", "<!-- not run: it drops everything -->", "```sql", "drop", "```")
    assert (first.runs, first.text, first.line) == (True, "ls\n", 1)
    assert (second.runs, second.note_text) == (False, "it drops everything")


def test_a_file_of_the_readers_program_has_its_name(page: Path) -> None:
    assert read(page, '```python title="shop.py"', "```")[0].title == "shop.py"


@pytest.mark.parametrize(
    "lines",
    [
        ["```bash", "ls"],
        ["```", "ls", "```"],
        ["```shell", "ls", "```"],
        ["- a list", "  ```bash", "  ls", "  ```"],
        ["<!-- not run: -->", "```bash", "ls", "```"],
        ["<!-- not run -->", "```bash", "ls", "```"],
    ],
    ids=["not closed", "no language", "unknown language", "indented", "empty reason", "no reason"],
)
def test_a_block_that_could_hide_is_refused(page: Path, lines: list[str]) -> None:
    with pytest.raises(PageError):
        read(page, *lines)


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        ("one\ntwo", "one\nelse\ntwo\n", True),
        ("two\none", "one\ntwo\n", False),
        ("one\none", "one\n", False),
        ('"id":…"cost"', '{"id":"7","cost":1}', True),
        ("1.0", "1x0", False),
    ],
)
def test_what_a_page_says_is_printed_has_to_be(expected: str, printed: str, fits: bool) -> None:
    assert matches(expected, printed) is fits
