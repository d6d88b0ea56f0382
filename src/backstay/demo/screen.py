"""What the demo shows: colour and progress in a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table

_INDENT = "    "
_WIDEST = 100


class Advance(Protocol):
    """Moves a progress display to `done` of `total`."""

    def __call__(self, done: int, total: int) -> None: ...


class Screen:
    """Prints the demo's story. `quiet`: nothing at all (for `--json`)."""

    def __init__(self, *, quiet: bool = False) -> None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal without our signs shows others; it does not break
        self._out = Console(highlight=False, quiet=quiet)
        self._width = min(self._out.width, _WIDEST)
        self._column = 0

    def title(self, text: str, *lines: tuple[str, str]) -> None:
        self._out.print()
        self._out.print(f"[bold]{escape(text)}[/]")
        for name, value in lines:
            self._out.print(f"  [dim]{escape(name):<11}[/]{escape(value)}", soft_wrap=True)

    def chapter(self, text: str) -> None:
        self._out.print()
        if self._out.is_terminal:
            self._out.print(Rule(f"[bold]{escape(text)}[/]", align="left", style="dim"), width=self._width)
        else:
            self._out.print(f"== {escape(text)}")

    def fact(self, text: str) -> None:
        self._end_line()
        self._out.print(f"  [green]✓[/] {escape(text)}", soft_wrap=True)

    def note(self, text: str) -> None:
        self._end_line()
        self._out.print(f"  [dim]·[/] [dim]{escape(text)}[/]", soft_wrap=True)

    def blow(self, text: str) -> None:
        self._end_line()
        self._out.print(f"  [bold red]✗ {escape(text)}[/]", soft_wrap=True)

    def turn(self, text: str) -> None:
        self._end_line()
        self._out.print(f"  [yellow]↻ {escape(text)}[/]", soft_wrap=True)

    def failed(self, text: str) -> None:
        self._end_line()
        self._out.print(f"  [bold red]FAILED[/] {escape(text)}", soft_wrap=True)

    def question(self, text: str) -> None:
        self._out.print()
        self._out.print(f"  [bold cyan]Q[/] [bold]{escape(text)}[/]", soft_wrap=True)

    def say(self, piece: str) -> None:
        """A piece of an answer, wrapped between words as it comes."""
        for part in piece.splitlines(keepends=True):
            words = part.rstrip("\n")
            if self._column == 0:
                words = words.lstrip()
                self._raw(_INDENT)
                self._column = len(_INDENT)
            elif words[:1].isspace() and self._column + len(words) > self._width:
                self._raw("\n" + _INDENT)
                words = words.lstrip()
                self._column = len(_INDENT)
            self._raw(words)
            self._column += len(words)
            if part.endswith("\n"):
                self._end_line()

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        self._end_line()
        table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for place, name in enumerate(head):
            table.add_column(name, justify="right" if place in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        grid = Table.grid(padding=(0, 0, 0, 4))
        grid.add_row("", table)
        self._out.print(grid)

    @contextmanager
    def progress(self, text: str) -> Iterator[Advance]:
        """A bar in a terminal; a line at the begin, at the middle and at the end elsewhere."""
        if self._out.is_terminal:
            columns: list[Any] = [
                TextColumn("  [dim]·[/] {task.description}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            ]
            with Progress(*columns, console=self._out, transient=True) as bar:
                task = bar.add_task(text, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
            return
        shown = -1

        def line(done: int, total: int) -> None:
            nonlocal shown
            stage = 4 * done // total if total else 4
            if stage > shown:
                shown = stage
                self.note(f"{text} {done}/{total}")

        yield line

    def _raw(self, text: str) -> None:
        self._out.print(text, end="", markup=False, soft_wrap=True)

    def _end_line(self) -> None:
        if self._column:
            self._out.print()
            self._column = 0
