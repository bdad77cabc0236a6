"""Notebooks in jupytext's percent format, executed as a kernel does."""

import ast
import contextlib
import os
import re
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from mlcli.show import figure


def cells(text: str) -> list[tuple[str, str]]:
    """Return the cells of a notebook: their kind, "code" or "markdown", and their text."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    return [
        ("markdown" if "markdown" in kind else "code", body) for kind, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def shown(value: object) -> str:
    """Return what a notebook shows of the last value of a cell."""
    html = getattr(value, "_repr_html_", None)
    return "" if value is None else html() if html else repr(value)


def undraw() -> None:
    """Have empty charts in this process: drawing takes longer than these trainings."""
    draw = figure.image
    for module in [*sys.modules.values()]:
        if getattr(module, "image", None) is draw:
            module.image = lambda *charts, **words: Image.new("RGB", (64, 64), "white")


def execute(text: str, folder: Path, drawn: bool, questions: list[str], answers: Connection) -> None:
    """Run the code cells in a folder; send the values of some expressions, or the text of a cell with its traceback."""
    os.chdir(folder)
    if not drawn:
        undraw()
    names: dict = {"__name__": "__main__"}
    body = ""
    with Path("printed.txt").open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            for body in (body for kind, body in cells(text) if kind == "code"):
                tree = ast.parse(body)
                last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
                exec(compile(tree, "cell", "exec"), names)
                if last is not None:
                    print(shown(eval(compile(ast.Expression(last.value), "cell", "eval"), names)))
            answers.send([eval(question, names) for question in questions])
        except BaseException:
            answers.send(f"{body}\n{traceback.format_exc()}")
