"""Spend as CSV (RFC 4180), safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Sequence

from .models import SpendRow

TYPE = "text/csv"
# A spreadsheet takes a cell that begins like this for a formula, wide forms too; tags come from whoever calls.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def spend(group: str, rows: Sequence[SpendRow]) -> str:
    """A line of names and a line for each row. A name that looks like a formula is led by an apostrophe."""
    text = io.StringIO()
    sheet = csv.writer(text)
    sheet.writerow([group, "calls", "input_tokens", "output_tokens", "cost_usd"])
    for row in rows:
        sheet.writerow([safe(row.name or ""), row.calls, row.input_tokens, row.output_tokens, f"{row.cost:f}"])
    return text.getvalue()


def safe(cell: str) -> str:
    """The cell as a text that no spreadsheet calculates."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
