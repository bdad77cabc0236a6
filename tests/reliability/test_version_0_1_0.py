"""Runs that version 0.1.0 wrote are still read: they predict, evaluate, resume, and are reported as they were then.

Each folder under fixtures/v0.1.0 is a run of that version, without its report and TensorBoard files. `expected.json`
has what that version itself answered: to a picture or row, on the test split, and after resuming for one more epoch.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FIXTURES = Path(__file__).parent.parent / "fixtures" / "v0.1.0"
TASKS = ["classification", "detection", "regression"]
CLOSE = {"rel": 2e-3, "abs": 1e-4}
"""Another processor or version of torch adds in another order."""


@pytest.fixture(params=TASKS)
def old(request, tmp_path):
    """A copy of the run `old` of one task, and what version 0.1.0 said about it."""
    folder = tmp_path / "runs" / "old" / "20261127-233349-2b4d"
    shutil.copytree(FIXTURES / request.param, folder)
    return request.param, folder, json.loads((folder / "expected.json").read_text())


def question(task: str, folder: Path) -> Path:
    """Write what is asked of the model: the picture or row that version 0.1.0 answered."""
    y, x = np.mgrid[0:64, 0:64]
    grey = ((x * 7 + y * 13) % 256).astype(np.uint8)
    match task:
        case "classification":
            path = folder / "digit.png"
            Image.fromarray(grey[:8, :8]).save(path)
        case "detection":
            path = folder / "scene.png"
            Image.fromarray(np.stack([grey, grey.T, 255 - grey], axis=-1)).save(path)
        case _:
            path = folder / "row.csv"
            path.write_text("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n0.03,0.05,0.06,0.02,-0.04,-0.03,-0.04,0.0,0.02,-0.02\n")
    return path


def agree(found: object, expected: object) -> bool:
    """Whether two records are the same but for the last digits of their numbers."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(agree(found.get(key), value) for key, value in expected.items())
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(agree, found, expected))
    return found == (pytest.approx(expected, **CLOSE) if isinstance(expected, float) else expected)


def test_it_answers_as_it_did(old, mlcli, tmp_path):
    task, _, expected = old
    options = ["--threshold", "0", "--top", "3"] if task == "detection" else []
    typed = mlcli("predict", "old", question(task, tmp_path), *options)
    assert typed.code == 0, typed.err
    assert agree(json.loads(typed.out), expected["prediction"])


def test_it_is_evaluated_as_it_was(old, mlcli):
    _, _, expected = old
    typed = mlcli("evaluate", "old", "--split", "test", "--json")
    assert typed.code == 0, typed.err
    assert agree(json.loads(typed.out)["metrics"], expected["test"])


def test_it_is_resumed_as_it_would_have_been(old, mlcli):
    _, folder, expected = old
    typed = mlcli("train", "--resume", "old", "train.epochs=3")
    assert typed.code == 0, typed.err
    assert agree(json.loads((folder / "status.json").read_text())["scores"], expected["resumed"])


def test_it_is_listed_and_reported(old, mlcli):
    _, folder, _ = old
    listed = mlcli("runs")
    assert listed.code == 0
    assert "old" in listed.out
    assert mlcli("report", "old").code == 0
    assert (folder / "report.html").stat().st_size > 10_000
