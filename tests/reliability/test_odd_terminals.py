"""Standard output that does not have every character: a replacement stands there, and the command goes on."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from mlcli import cli


def printed(monkeypatch, encoding: str, *arguments: str) -> tuple[int, str]:
    """Exit code of a command, and what it wrote to a strict stream of that encoding."""
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "argv", ["mlcli", *arguments])
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    stream.flush()
    return int(stopped.value.code or 0), content.getvalue().decode(encoding)


def a_run(name: str) -> None:
    folder = Path("runs", name, "20260101-000000-0000")
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"state": "finished", "epochs": 3, "epoch": 3}))


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "??-caf?/2026"), ("latin-1", "??-café/2026"), ("utf-8", "名前-café/2026"), ("cp437", "??-café/2026")],
)
def test_characters_that_a_terminal_lacks_are_replaced(tmp_path, monkeypatch, encoding, shown):
    monkeypatch.chdir(tmp_path)
    a_run("名前-café")
    code, out = printed(monkeypatch, encoding, "runs")
    assert code == 0
    assert shown in out


def test_names_that_are_no_text_are_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_run(os.fsdecode(b"q\xff"))
    assert "q\\xff/2026" in printed(monkeypatch, "utf-8", "runs")[1]
    code, out = printed(monkeypatch, "utf-8", "runs", "--json")
    assert code == 0
    assert json.loads(out)[0]["run"].startswith("q\\xff/")
