"""README and docs are true: commands, files and links they name exist, the architecture page is what the code is."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from mlcli.cli import app
from mlcli.errors import ExitCode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
RENEW = "renew it with: python docs/architecture.py"


def test_it_is_one_page():
    assert len(README.encode()) <= 9_000


def test_every_command_is_in_the_table():
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    groups = [group.name for group in app.registered_groups]
    for name in [*commands, *groups]:
        assert f"| `mlcli {name}" in README, name


def test_every_shipped_experiment_is_in_the_tour():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"`{path.relative_to(ROOT)}`" in TOUR, path


def test_every_exit_code_is_in_the_tour():
    table = TOUR.split("## Exit codes")[1].split("\n## ")[0]
    told = [int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.MULTILINE) for code in row.split(",")]
    assert told == list(ExitCode)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_it_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:configs|docs|benchmarks|tests)/[\w/.-]+\.\w+", text):
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert "://" in link or (page.parent / link).exists(), link


def test_the_architecture_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    architecture = import_module("architecture")
    page = architecture.PAGE.read_text(encoding="utf-8")
    assert page == architecture.renewed(page), RENEW
    assert architecture.DRAWING.read_text(encoding="utf-8") == architecture.drawing(), RENEW


def test_places_that_the_architecture_page_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py|(?:[a-z_]+/)+)`", text.split("## All files")[0])
    assert len(named) > 25
    for name in named:
        assert (ROOT / name).exists() or list((ROOT / "mlcli").rglob(name.rstrip("/"))), name
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mlcli").rglob("*.py"))
    for constant in re.findall(r"`([A-Z_]{4,})`", text.split("## All files")[0]):
        assert re.search(rf"^{constant}\b.* = ", code, re.MULTILINE), constant
