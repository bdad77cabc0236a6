"""What several rooms' tests need: a way to type a command, and one thread so that bits are repeatable."""

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "120"  # the width of the screens that texts are compared with
os.environ["NO_COLOR"] = "1"

import pytest

from mlcli import cli


class Typed(NamedTuple):
    """What came of a typed command."""

    code: int
    out: str
    err: str


@pytest.fixture
def mlcli(monkeypatch, capsys, tmp_path) -> Callable[..., Typed]:
    """Type an mlcli command in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def type_command(*arguments: object) -> Typed:
        monkeypatch.setattr(sys, "argv", ["mlcli", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Typed(code, *capsys.readouterr())

    return type_command
