"""The notebooks of examples/ run cell by cell, each in a process and a folder of its own, and show what they say.

Ordinarily they are shortened, in processes forked from this one, which spares each of them seconds of imports. The long
run takes them as they are, in processes that begin with nothing.
"""

import ast
import importlib
import multiprocessing
import re
from pathlib import Path

import pytest
import torch

from tests.notebooks import cells, execute
from tests.reliability.soak import LONG

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("[0-9]*.py"))
SECONDS = 600
SHORTER = {
    "01_first_run": [('"baselines": True', '"baselines": False'), ('"epochs": 10', '"epochs": 3')],
    "02_own_folder": [("number < 900", "number < 200"), ("train.epochs=5", "train.epochs=1")],
    "04_detection": [("= 400, 96, 10", "= 20, 64, 1"), ('"width": 16', '"width": 4')],
    "05_what_went_wrong": [('"epochs": 8', '"epochs": 4')],
}
"""What is replaced for the ordinary run; one that is not named is for the long run alone."""
UNTIL = {"05_what_went_wrong": "# Two cures"}
"""Where the ordinary run stops."""
CLAIMS = {
    "01_first_run": [
        "run.scores['test']['accuracy'] > 0.9",
        "[answer['label'] for answer in answers] == [*'01234']",
        "len(answers[0]['probabilities']) == 2",
    ],
    "02_own_folder": ["result['classes'][0]['name'] == 'eight'", "run.config['model']['name'] == 'cnn'"],
    "03_fine_tuning": [],
    "04_detection": ["len(answers) == 4", "picture.size == (3 * SIDE, 3 * SIDE)"],
    "05_what_went_wrong": [
        "diverged.verdict.kind == 'diverged'",
        "dead.layer_troubles[0].startswith('dead activations')",
        "vanishing.layer_troubles[0].startswith('vanishing gradients')",
    ],
}
"""What is true after the last cell."""
LONGER = {
    "01_first_run": ["run.verdict.kind == 'good fit'"],
    "02_own_folder": ["run.scores['test']['accuracy'] > 0.8"],
    "03_fine_tuning": [
        "of_scans > untuned + 0.1",
        "tuned.scores['test']['accuracy'] > max(untuned, scratch.scores['test']['accuracy'] + 0.1)",
    ],
    "04_detection": ["run.scores['test']['map50'] > 0.3", "any(answer['objects'] for answer in answers)"],
    "05_what_went_wrong": [
        "healthy.verdict.kind == 'good fit'",
        "dead.verdict.advice[0].override == 'mlcli lr-find'",
        "normalised.scores['val']['accuracy'] > 0.9 > relu.scores['val']['accuracy'] > 0.5",
        "vanishing.scores['val']['accuracy'] < 0.2",
        "overfitted.verdict.kind == 'overfitting'",
    ],
}
"""And after the last cell of the notebook as it is."""
IMPORTED = (
    "mlcli.api",
    "mlcli.data.check.examination",
    "mlcli.engine.launch",
    "mlcli.machine.bench.learner",
    "mlcli.report.baselines",
    "mlcli.tasks.classification.build",
    "mlcli.tasks.detection.build",
    "sklearn.datasets",
    "torch.utils.tensorboard",
)
"""What most tests import anyway, and each forked process need not."""


def start(execute, *arguments):
    """Begin a process, of this one's memory where that is safe: a GPU that is in use cannot be forked."""
    is_forked = not LONG and "fork" in multiprocessing.get_all_start_methods() and not torch.cuda.is_initialized()
    for name in IMPORTED if is_forked else ():
        importlib.import_module(name)
    process = multiprocessing.get_context("fork" if is_forked else "spawn").Process(target=execute, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says(notebook, tmp_path):
    if not LONG and notebook.stem not in SHORTER:
        pytest.skip("for the long run (make soak)")
    text = notebook.read_text(encoding="utf-8")
    questions = CLAIMS[notebook.stem] + (LONGER[notebook.stem] if LONG else [])
    for there, instead in () if LONG else SHORTER[notebook.stem]:
        assert there in text, there
        text = text.replace(there, instead)
    if not LONG and (end := UNTIL.get(notebook.stem)):
        assert end in text
        text = text.partition(end)[0]
    here, there = multiprocessing.Pipe(duplex=False)
    process = start(execute, text, tmp_path, LONG, questions, there)
    try:
        assert here.poll(SECONDS), "it does not end"
        found = here.recv()
    finally:
        process.kill()
        process.join()
    assert not isinstance(found, str), found
    assert [claim for claim, value in zip(questions, found, strict=True) if not value] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupytext_and_editors_take_it_for_a_notebook(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert text.startswith("# ---\n# jupyter:\n#   jupytext:\n")
    assert "format_name: percent" in text.split("# %%")[0]
    kinds = [kind for kind, _ in cells(text)]
    assert kinds[0] == "markdown"
    assert {"code", "markdown"} == set(kinds)
    for kind, body in cells(text):
        if kind == "markdown":
            assert all(line.startswith("#") for line in body.splitlines() if line), body
        else:
            ast.parse(body)
            assert not re.search(r"^[%!]", body, re.MULTILINE), "a line that is no Python"


def test_there_is_one_for_each_step():
    assert [path.stem for path in NOTEBOOKS] == [*CLAIMS]
