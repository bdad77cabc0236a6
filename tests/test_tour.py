"""The README's tour runs as it is printed, from an empty folder; no shell takes a word of the docs for a pattern."""

import re
import shlex
from pathlib import Path

import pytest

from mlcli.commands import bench_io, env_check, lr_find

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
TOUR = README.split("## A tour")[1].split("```")[1].strip().splitlines()
SHORTER = {"train": ["train.epochs=2", "train.baselines=false", "train.tensorboard.embeddings=false"]}
"""Words added to the printed ones, for the test to take seconds."""


def test_the_tour_runs_as_printed(mlcli, monkeypatch):
    monkeypatch.setattr(bench_io, "FULL_S", 2.0)
    monkeypatch.setattr(lr_find.run, "__kwdefaults__", {**lr_find.run.__kwdefaults__, "budget_s": 1.0})
    monkeypatch.setattr(env_check, "run", lambda as_json=False: 0)  # this machine may be ill, and it asks a process
    typed = 0
    for line in TOUR:
        words = shlex.split(line, comments=True)  # as bash and zsh take them apart
        if words[0] != "mlcli":
            continue
        done = mlcli(*words[1:], *SHORTER.get(words[1], []))
        assert done.code == 0, f"{line}: {done.err}"
        typed += 1
    assert typed >= 11


def commands(page: Path) -> list[str]:
    """The commands on a page: lines of its blocks of code, and code within sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [line for line in (*lines, *inline) if line.startswith("mlcli ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_with_brackets_are_quoted(page):
    """zsh, the shell of macOS, ends with "no matches found" at a bare [ ]; both shells expand a bare { }."""
    for line in commands(page):
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line.partition(" #")[0])
        assert not re.search(r"=\s*[\[{]", bare), line


def test_there_are_commands_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 40
