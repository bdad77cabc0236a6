"""The terminal: colours where they are wanted, progress on terminals alone, output in any encoding, widths."""

import io
import os
import subprocess
import sys

import pytest

from mlcli.show.terminal import Stdout, bar, has_colour, in_colour, paint, progress
from mlcli.text import numbers, paragraphs, table


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "coloured"),
    [
        (Tty(), {}, True),
        (io.StringIO(), {}, False),
        (Tty(), {"NO_COLOR": "1"}, False),
        (Tty(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "0"}, False),
        (Tty(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (Tty(), {"NO_COLOR": ""}, True),
    ],
)
def test_colours_are_for_terminals_unless_a_variable_says_otherwise(monkeypatch, stream, variables, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colour(stream) is coloured
    assert paint("a", "red", stream) == ("\033[31ma\033[0m" if coloured else "a")


def test_the_subjects_of_an_error_are_coloured_and_nothing_else(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Tty())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert in_colour("error: an error: it\nfix:   do") == "\033[31merror:\033[0m an error: it\n\033[32mfix:\033[0m   do"


def test_an_error_is_wrapped_on_a_terminal_alone_and_a_command_never(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    words = "word " * 20 + "end"
    message = f"error: {words}\nfix:   {words}\nfix:   mlcli train {words}"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert in_colour(message) == message
    monkeypatch.setattr(sys, "stderr", Tty())
    *prose, command = in_colour(message).splitlines()
    assert [len(line) <= 80 for line in prose] == [True] * 4
    assert prose[1].startswith("       word")
    assert command == message.splitlines()[-1]


def test_progress_shows_on_a_terminal_once_it_takes_long_and_leaves_nothing(monkeypatch):
    for stream, delay, shown in [(Tty(), 0.0, True), (Tty(), 3600.0, False), (io.StringIO(), 0.0, False)]:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr("mlcli.show.terminal.SOON_S", delay)
        assert list(progress(range(3), "reading", total=3)) == [0, 1, 2]
        assert ("reading" in stream.getvalue()) is shown
        assert not stream.getvalue().split("\r")[-1].strip()
    monkeypatch.setattr(sys, "stderr", None)  # closed by the caller
    with bar("reading", 3) as quiet:
        quiet.update()


FORKS = """
import os, signal, threading
from mlcli.show.terminal import bar
with bar("before", 1) as shown:
    lock, threads = shown.get_lock(), threading.active_count()
if not (killed := os.fork()):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(killed, 0)
if not (other := os.fork()):
    bar("beside", 1).close()
    os._exit(0)
print("status", os.waitpid(other, 0)[1], "threads", threads)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_while_it_draws_a_bar_stops_no_other():
    """As with servers of processes that have drawn one before they fork."""
    ended = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "status 0 threads 1\n"


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [("ascii", "naïve…", b"na?ve?"), ("latin-1", "日本 é", b"?? \xe9"), ("utf-8", "\udcff", b"\\udcff")],
)
def test_what_an_encoding_lacks_is_replaced(encoding, text, shown):
    raw = io.BytesIO()
    out = Stdout(io.TextIOWrapper(raw, encoding=encoding))
    out.write(text)
    out.flush()
    assert raw.getvalue() == shown


def test_only_our_own_colours_reach_the_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = io.StringIO()
    out = Stdout(screen)
    out.write(paint("a \033[31mname", "bold", out))
    assert screen.getvalue() == "\033[1ma \\u001b[31mname\033[0m"


def test_numbers_of_a_column_have_one_format():
    assert numbers([0.5, 53.812345, None]) == ["0.500", "53.812", "-"]
    assert numbers([0.97, 1.0]) == ["0.9700", "1.0000"]
    assert numbers([1.0, 123456.0]) == ["1.000e+00", "1.235e+05"]
    assert numbers([0.0, float("nan")]) == ["0.0000", "nan"]
    assert numbers([1234.5678]) == ["1234.6"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_text_fits_the_screen(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = paragraphs([("subject", "word " * 60), ("other", "word " * 3)])
    assert max(map(len, text.splitlines())) <= min(columns, 120)
    assert max(map(len, text.splitlines())) > min(columns, 120) - 6


def test_a_table_drops_columns_by_importance(monkeypatch):
    rows = [["run", "x" * 30, "y" * 30, "z" * 30]]
    for columns, left in [(120, "xyz"), (80, "xz"), (40, "z")]:
        monkeypatch.setenv("COLUMNS", str(columns))
        text = table(["", "x", "y", "z"], rows, drop=(2, 1))
        assert "".join(sorted(set(text) & set("xyz"))) == left
        assert max(map(len, text.splitlines())) <= columns
