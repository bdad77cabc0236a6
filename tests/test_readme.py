"""The README is true: its commands and the files it names exist."""

import re
from pathlib import Path

from mlcli.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_table():
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    groups = [group.name for group in app.registered_groups]
    for name in [*commands, *groups]:
        assert f"| `mlcli {name}" in README, name


def test_every_config_and_page_it_names_exists():
    for name in re.findall(r"\b(?:configs|docs|benchmarks|tests)/[\w/.-]+\.\w+", README):
        assert (ROOT / name).exists(), name
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.stem in README, path
