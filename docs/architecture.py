"""Renew docs/architecture.md (the list of files) and docs/architecture.svg (the layers) from the code.

    python docs/architecture.py

`LAYERS` is the order of the packages; tests/test_floors.py holds every import to it.
"""

import ast
import re
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mlcli"
PAGE = ROOT / "docs" / "architecture.md"
DRAWING = ROOT / "docs" / "architecture.svg"
BEGIN, END = "<!-- files: written by docs/architecture.py -->", "<!-- end of files -->"

LAYERS = [
    (("__main__", "__init__"), ""),
    (("cli", "api"), "every command's signature and help line; the same for Python and notebooks"),
    (("commands",), "one thin file per command: arguments in, text out, exit code"),
    (("export",), "a run as one ONNX or .pt2 file, verified, and the file as a model again"),
    (("scoring",), "how good a saved model is, on its own data or on new ones"),
    (("saved",), "a saved model made into its predictor or its task again"),
    (("experiment",), "one YAML file as one typed, frozen Experiment; the table of tasks"),
    (("report", "machine"), "what a finished run shows; env-check and bench-io"),
    (("tasks",), "classification, regression, detection: data, model and losses as one Task"),
    (("models",), "step 1: plain modules with plain keywords; models/inspect takes them apart"),
    (("data",), "from files to batches; data/check is the data set doctor"),
    (("engine",), "the one trainer; knows no task, no data set, no model"),
    (("schema", "show"), "strict YAML with positions; sheets, boxes, charts, one palette"),
    (("outputs",), "folders of what mlcli wrote, marked and whole"),
    (("files",), "files written whole or not at all"),
    (("reading",), "files read: regular ones, never more than a bound"),
    (("text", "errors", "version"), "numbers, sizes and lists in words; what can go wrong, with its exit code"),
]
"""From the top: packages (or modules) of mlcli and what they are for. Imports only go down, or stay in the package."""

WALK = [
    ("cli", "mlcli train x.yaml optimizer.lr=0.05"),
    ("commands", "train.run(path, overrides)"),
    ("experiment", "Experiment: every mistake at once, no torch yet"),
    ("tasks", "build_task(config): data source, model, losses"),
    ("engine", "launch: run folder, lock; fit: forward, backward, step"),
    ("report", "scores, verdict, report.html"),
]
"""The way of a configuration through the layers, in order."""


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(renewed(page), encoding="utf-8")
    DRAWING.write_text(drawing(), encoding="utf-8")


def renewed(page: str) -> str:
    """Return the page with the list of files as it is now."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n```\nmlcli/\n" + "\n".join(tree(PACKAGE, "  ")) + f"\n```\n{END}{tail}"


def tree(folder: Path, indent: str) -> list[str]:
    """Return a line per file and package below a folder: its name and the first sentence of its docstring."""
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            lines += entry(indent + path.name, first_sentence(path))
        elif path.is_dir() and (path / "__init__.py").exists():
            lines += entry(f"{indent}{path.name}/", first_sentence(path / "__init__.py"))
            lines += tree(path, indent + "  ")
    return lines


def entry(name: str, says: str) -> list[str]:
    """Return one entry of the tree, no wider than 118 columns."""
    first, *others = textwrap.wrap(says, 118 - 30) or [""]
    return [f"{name:<29} {first}".rstrip(), *(" " * 30 + line for line in others)]


def first_sentence(path: Path) -> str:
    """Return what a file says about itself, without the papers in brackets."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    words = re.sub(r" \([^()]*\d{4}[^()]*\)", "", " ".join(paragraph.split())).replace("`", "")
    return re.split(r"\.(?: |$)", words)[0]


def drawing() -> str:
    """Return the layers as an SVG, highest first, and the way of a configuration through them on the right."""
    layers = [(names, says) for names, says in LAYERS if says]
    height, top, step = 40, 46, 48
    rows, places = [], {}
    for number, (names, says) in enumerate(layers):
        y = top + number * step
        for name in names:
            places[name] = y + height / 2
        title = ", ".join(name for name in names if name != "__init__")
        rows.append(
            f'<rect class="box" x="20" y="{y}" width="560" height="{height}" rx="6"/>'
            f'<text class="name" x="34" y="{y + 17}">{title}</text>'
            f'<text class="says" x="34" y="{y + 33}">{escape(says)}</text>'
        )
    walk, before = [], None
    for number, (name, says) in enumerate(WALK, start=1):
        x, y = 612, places[name]
        if before is not None:
            walk.append(f'<line class="way" x1="{x}" y1="{before}" x2="{x}" y2="{y}"/>')
        before = y
        walk.append(f'<text class="says" x="{x + 20}" y="{y + 4}">{number}  {escape(says)}</text>')
    dots = [f'<circle class="dot" cx="612" cy="{places[name]}" r="5"/>' for name, _ in WALK]
    bottom = top + len(layers) * step
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {bottom + 14}" role="img"'
        ' aria-label="The packages of mlcli from the highest to the lowest, and the way of a configuration">\n'
        "<style>text{font-family:system-ui,sans-serif;fill:#222}.name{font-weight:600;font-size:15px}"
        ".says{font-size:12.5px;fill:#555}.head{font-size:13px;font-weight:600;fill:#555}"
        ".box{fill:#f4f6f8;stroke:#c9d1d9}.way{stroke:#2f6fb3;stroke-width:2}.dot{fill:#2f6fb3}"
        "@media(prefers-color-scheme:dark){text{fill:#eee}.says,.head{fill:#aaa}.box{fill:#22272e;stroke:#444c56}"
        ".way{stroke:#6cb0f0}.dot{fill:#6cb0f0}}</style>\n"
        '<text class="head" x="20" y="28">Imports only go down</text>'
        '<text class="head" x="606" y="28">The way of a configuration</text>\n'
        + "\n".join([*rows, *walk, *dots])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
