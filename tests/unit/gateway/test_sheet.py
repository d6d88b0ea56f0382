"""Spend as CSV."""

import csv
import io
from decimal import Decimal

import pytest

from backstay.gateway import SpendRow
from backstay.gateway.sheet import spend


def row(name):
    return SpendRow(name, 2, 30, 4, Decimal("0.000000125"))


def test_a_line_of_names_and_a_line_for_each_row():
    assert spend("feature", [row("chat"), row(None)]) == (
        "feature,calls,input_tokens,output_tokens,cost_usd\r\nchat,2,30,4,0.000000125\r\n,2,30,4,0.000000125\r\n"
    )


@pytest.mark.parametrize("name", ['say "hi"', "a,b", "a;b", "eins\nzwei", "naïve 猫"])
def test_a_reader_of_csv_reads_the_same_names(name):
    read = list(csv.reader(io.StringIO(spend("user", [row(name)]), newline="")))
    assert read[1][0] == name


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1"])
def test_no_name_is_a_formula(name):
    read = list(csv.reader(io.StringIO(spend("user", [row(name)]), newline="")))
    assert read[1][0] == f"'{name}"
