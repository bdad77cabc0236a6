"""The README is true: its tree names every file with the first words of that file, its commands exist."""

import ast
import re
from pathlib import Path

from mlcli.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def first_words(path: Path) -> str:
    """What a file says about itself: the first sentence of its docstring, without the papers in brackets."""
    line = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    return re.split(r"\.(?: |$)", re.sub(r" \([^()]*\d{4}[^()]*\)", "", line).replace("`", ""))[0]


def tree_of(folder: Path, indent: str = "") -> list[str]:
    """The lines of a folder in the README's tree."""
    lines = []
    for path in sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        if path.suffix == ".py" and path.stat().st_size and path.name != "__init__.py":
            lines.append(f"{indent}{path.name:<{26 - len(indent)}} {first_words(path)}")
        elif path.is_dir() and list(path.glob("*.py")):
            says = first_words(path / "__init__.py")
            lines += [f"{indent}{path.name + '/':<{26 - len(indent)}} {says}".rstrip(), *tree_of(path, indent + "  ")]
    return lines


def test_the_tree_is_the_tree():
    expected = "\n".join(tree_of(ROOT / "mlcli", "  "))
    assert expected in README, f"put this into README.md:\n\n{expected}"


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
