"""Reports as files, piece by piece: CSV for spreadsheets, HTML for people. Names come from strangers in both."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from typing import Protocol

from ..gateway.sheet import safe

Cell = str | int | Decimal | None


@dataclass(frozen=True, slots=True)
class Column:
    """`number`: shown with its digits below those of the others, and added up when it is a `total`. `whole`: never
    broken into lines."""

    title: str
    number: bool = False
    total: bool = False
    whole: bool = False


class Form(Protocol):
    """How a report is written down."""

    media_type: str

    def head(self) -> str: ...

    def row(self, cells: Sequence[Cell]) -> str: ...

    def foot(self, totals: Sequence[Cell]) -> str:
        """The end. `totals` has a cell for each column; those that are not added up are None."""
        ...


class Csv:
    """RFC 4180, in UTF-8. A cell that a spreadsheet would calculate is led by an apostrophe."""

    media_type = "text/csv; charset=utf-8"

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def head(self) -> str:
        return self.row([column.title for column in self._columns])

    def row(self, cells: Sequence[Cell]) -> str:
        line = io.StringIO()
        csv.writer(line).writerow([safe(_plain(cell)) if isinstance(cell, str) else _plain(cell) for cell in cells])
        return line.getvalue()

    def foot(self, totals: Sequence[Cell]) -> str:
        return ""


class Html:
    """One page that needs nothing besides itself: no script, no font, no picture."""

    media_type = "text/html; charset=utf-8"

    def __init__(self, columns: Sequence[Column], title: str, subtitle: str) -> None:
        self._columns, self._title, self._subtitle = columns, title, subtitle
        self._classes = [_class(column) for column in columns]

    def head(self) -> str:
        titles = self._cells("th", [column.title for column in self._columns])
        return _HEAD.format(title=escape(self._title), subtitle=escape(self._subtitle), style=_STYLE, titles=titles)

    def row(self, cells: Sequence[Cell]) -> str:
        return f"<tr>{self._cells('td', cells)}</tr>\n"

    def foot(self, totals: Sequence[Cell]) -> str:
        summed = any(total is not None for total in totals)
        shown = ["Total" if not n else "" if total is None else total for n, total in enumerate(totals)]
        row = f"<tfoot><tr>{self._cells('td', shown)}</tr></tfoot>\n" if summed else ""
        return f"</tbody>\n{row}</table>\n</div>\n</main>\n</body>\n</html>\n"

    def _cells(self, tag: str, cells: Sequence[Cell]) -> str:
        return "".join(self._written(tag, cells))

    def _written(self, tag: str, cells: Sequence[Cell]) -> Iterator[str]:
        for kind, cell in zip(self._classes, cells, strict=True):
            text = escape(f"{cell:,}" if isinstance(cell, int) else _plain(cell))
            yield f"<{tag}{kind}>{'<span>–</span>' if cell is None else text}</{tag}>"


def _class(column: Column) -> str:
    names = [name for name, wanted in (("number", column.number), ("whole", column.number or column.whole)) if wanted]
    return f' class="{" ".join(names)}"' if names else ""


def _plain(cell: Cell) -> str:
    if isinstance(cell, Decimal):
        return f"{cell:f}"
    return "" if cell is None else str(cell).replace("\0", "")


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --line: #e2e7ee; --band: #f6f8fa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf2; --soft: #97a5b8; --line: #2b3544; --band: #171e28; --page: #10151c; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; }
p { color: var(--soft); margin: .35rem 0 1.75rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .5rem .9rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-size: .8rem; font-weight: 600; border-bottom-width: 2px; white-space: nowrap; }
td { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.whole { white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
tfoot td { font-weight: 600; border-bottom: 0; border-top: 2px solid var(--line); }
span { color: var(--soft); }
@media print { main { max-width: none; padding: 0; } thead { display: table-header-group; } }
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{subtitle}</p>
<div>
<table>
<thead><tr>{titles}</tr></thead>
<tbody>
"""
