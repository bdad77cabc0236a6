"""Aligned text, and numbers and times as people read them."""

import json

import pytest

from mlcli import text
from mlcli.text import (
    count,
    duration,
    first_few,
    listed,
    number,
    paragraphs,
    plural,
    share,
    shown,
    sides,
    size,
    table,
    truncated,
    whole,
)  # fmt: skip


def test_columns_line_up():
    assert table(["run", "state", "n"], [["a", "finished", "5"], ["long", "x", "1,000"]], left=2) == (
        "run   state         n\n"
        "a     finished      5\n"
        "long  x         1,000"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.97216, "0.9722"), (-0.5, "-0.5000"), (53.8123, "53.81"), (123456.0, "1.235e+05")],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (4.23, "4.2s"), (65, "1m 05s"), (3599.7, "1h 00m"), (7380, "2h 03m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_counts_and_sizes():
    assert [count(n) for n in (0, 640, 75_600, 75_590_000, 4.0909e9, 1.5e12)] == [
        "0", "640", "75.6k", "75.6M", "4.09G", "1.5T"]  # fmt: skip
    assert [size(n) for n in (0, 512, 1500, 58_880_000, 1.38e9)] == ["0 B", "512 B", "1.5 kB", "58.9 MB", "1.38 GB"]
    assert (whole(1797), whole(None)) == ("1,797", "-")
    assert (sides((3, 32, 32)), sides(())) == ("3x32x32", "scalar")


@pytest.mark.parametrize(
    ("part", "of", "text"),
    [(12, 100, "12 %"), (3, 1000, "0.3 %"), (1, 5000, "less than 0.1 %"), (0, 10, "0.0 %"), (0, 0, "0.0 %")],
)
def test_shares(part, of, text):
    assert share(part, of) == text


def test_words():
    assert [plural(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert plural(2, "class", "classes") == "2 classes"
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert listed(["a", "b", "c"], "or") == "a, b or c"
    assert [first_few("abcdef"[:n], 5) for n in (0, 5, 6)] == ["", "a, b, c, d, e", "a, b, c, d, e and 1 more"]
    assert [truncated(text, 5) for text in ("short", "longer", "spac es")] == ["short", "long…", "spac…"]


def test_paths_are_shown_as_they_would_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "runs" / "a") == "runs/a"
    assert shown(tmp_path.parent) == str(tmp_path.parent)


def test_paragraphs_repeat_no_subject_and_break_no_word(monkeypatch):
    monkeypatch.setenv("COLUMNS", "18")
    text = paragraphs([("data", "one two three"), ("data", "four"), ("", "five"), ("model", "x" * 30)], 8)
    assert text.splitlines() == ["data    one two", "        three", "        four", "        five",
                                 "model   " + "x" * 30]  # fmt: skip


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\x9b1m\udcff\u2066"


def test_what_acts_on_a_terminal_is_written_out():
    shown = text.visible(HOSTILE)
    assert shown == r"\u001b]0;owned\u0007\u001b[2J\u202eevil\u009b1m\udcff\u2066"
    assert text.visible(shown) == shown
    assert text.visible("two\nlines\tand é, 猫, 👩‍💻") == "two\nlines\tand é, 猫, 👩‍💻"
    assert text.visible("two\nlines", one_line=True) == r"two\u000alines"
    assert json.loads(text.visible(json.dumps({"a": "\u202e"}, ensure_ascii=False))) == {"a": "\u202e"}


def test_names_of_others_do_not_break_a_table():
    assert text.table(["class", "n"], [["a\nb", "1"], ["\x1b[2J", "22"]]).splitlines() == [
        "class       n",
        r"a\u000ab    1",
        r"\u001b[2J  22",
    ]


@pytest.mark.parametrize(
    "cell",
    ["=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "  =1", "\uff1d1", "-", "--1", "=", "-3.5 kg"],
)
def test_a_spreadsheet_computes_nothing(cell):
    written = text.csv_cell(cell)
    assert written[0] == "'"
    assert text.csv_cell(f"\t{cell}")[0] not in "\t\r=+-@"
    assert text.from_csv_cell(written) == text.visible(cell, one_line=True)


@pytest.mark.parametrize(
    "cell", [-3.5, "-3.5", "+1e-3", "-.5", "-inf", "nan", 7, None, True, "a=b", "", "x-y", "'quoted'"]
)
def test_numbers_and_words_stay_what_they_are(cell):
    assert text.csv_cell(cell) == cell
    assert text.from_csv_cell(str(cell)) == str(cell)
