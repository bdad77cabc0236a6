"""A model on other data, of another task or shape, or from a newer mlcli: refused, with both sides named."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcli.engine.checkpoint import TRAILER_BYTES, load_checkpoint, save_checkpoint
from mlcli.version import __version__
from tests.conftest import Typed
from tests.reliability import tiny
from tests.reliability.child import in_child, type_here

SMALL = ("train.epochs=1", "train.accumulate=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of data, YAMLs and one finished run each of an MLP, a detector and a regression."""
    folder = tiny.write_data(tmp_path_factory.mktemp("refusals"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("mlp", "detection", "regression"):
            typed = type_here("train", f"{name}.yaml", *SMALL)
            assert typed.code == 0, typed.err
            next(Path("runs", name).iterdir()).rename(f"runs/{name}/only")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of that folder, in which we are; its runs find their data in it."""
    folder = Path(shutil.copytree(trained, tmp_path / "here"))
    for resolved in folder.glob("runs/*/only/resolved.yaml"):
        resolved.write_text(resolved.read_text().replace(str(trained), str(folder)))
    for path in folder.glob("runs/*/only/checkpoints/*.ckpt"):
        content = load_checkpoint(path)
        _move(content["config"], str(trained), str(folder))
        save_checkpoint(path, content)
    monkeypatch.chdir(folder)
    return folder


def _move(plain: dict[str, Any], old: str, new: str) -> None:
    for key, value in plain.items():
        if isinstance(value, dict):
            _move(value, old, new)
        elif isinstance(value, str):
            plain[key] = value.replace(old, new)


def typed(*arguments: str) -> Typed:
    return in_child(lambda: type_here(*arguments)).value


def refusal(code: int, *arguments: str) -> str:
    """What a command says that ends in this code, as one line."""
    said = typed(*arguments)
    assert said.code == code, said
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 5
    return said.err


MLP, DETECTOR, REGRESSION = "runs/mlp/only", "runs/detection/only", "runs/regression/only"


def test_unchanged_they_are_taken(here):
    for run in (MLP, DETECTOR, REGRESSION):
        assert typed("evaluate", run).code == 0
        assert typed("train", "--resume", run, "train.epochs=2").code == 0


@pytest.mark.parametrize("run", [MLP, DETECTOR, REGRESSION])
def test_every_checkpoint_says_what_it_is_of(here, run):
    for path in (here / run / "checkpoints").iterdir():
        saved = load_checkpoint(path)
        assert saved["versions"]["mlcli"] == __version__
        assert {"torch", "python"} <= saved["versions"].keys()
        assert saved["config"]["task"] == saved["facts"]["task"]
        assert saved["facts"]["data"]["class_names"] == {MLP: ["cat", "dog"], DETECTOR: ["a", "b"], REGRESSION: []}[run]
        assert saved["facts"]["data"]["input_shape"] == {MLP: [3, 6, 6], DETECTOR: [3, 32, 32], REGRESSION: [10]}[run]
        assert saved["facts"]["data"]["preparation"]


# --- other data ------------------------------------------------------------------------------------------------------


def rename_class(folder: Path) -> None:
    for split in ("train", "val", "test"):
        (folder / "photos" / split / "dog").rename(folder / "photos" / split / "fox")


def test_other_class_names(here):
    rename_class(here)
    said = refusal(5, "evaluate", MLP)
    assert "only in the checkpoint: dog; only in the data: fox" in said
    said = refusal(4, "train", "--resume", MLP, "train.epochs=2")
    assert "the data have changed since the run began: 22 of 44 train samples" in said


def test_other_class_names_of_a_detector(here):
    boxes = here / "boxes/boxes.csv"
    boxes.write_text(boxes.read_text().replace(",b,", ",wolf,"))
    assert "only in the checkpoint: b; only in the data: wolf" in refusal(5, "evaluate", DETECTOR)
    said = refusal(4, "train", "--resume", DETECTOR, "train.epochs=2")
    assert "the data have changed since the run began: 22 of 44 train samples" in said


def test_another_image_shape(here):
    said = refusal(5, "evaluate", MLP, "data.image_size=12")
    assert "the checkpoint has input_shape [3, 6, 6], the data [3, 12, 12]" in said
    said = refusal(5, "evaluate", MLP, "data.channels=1")
    assert "the checkpoint has input_shape [3, 6, 6], the data [1, 6, 6]" in said
    said = refusal(2, "train", "--resume", MLP, "train.epochs=2", "data.image_size=12")
    assert "data.image_size was None, is 12" in said


@pytest.mark.parametrize("command", [("evaluate", REGRESSION), ("predict", REGRESSION, "diabetes.csv")])
def test_a_regression_that_has_lost_its_unit(here, command):
    (here / "diabetes.csv").write_text("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n" + "0.1," * 9 + "0.1\n")
    for path in (here / REGRESSION / "checkpoints").iterdir():
        saved = load_checkpoint(path)
        del saved["facts"]["data"]["preparation"]["target_mean"]
        save_checkpoint(path, saved)
    assert "the checkpoint lacks the mean or the spread of the target" in refusal(5, *command)


# --- another model, another task -------------------------------------------------------------------------------------


def test_another_architecture(here):
    said = refusal(5, "evaluate", MLP, "model.hidden=[5]")
    assert "hidden is [6] in the checkpoint, [5] in the config" in said
    said = refusal(5, "evaluate", MLP, "model={name: linear}")
    assert "name is 'mlp' in the checkpoint, 'linear' in the config" in said
    said = refusal(2, "train", "--resume", MLP, "train.epochs=2", "model.hidden=[5]")
    assert "model.hidden was [6], is [5]" in said


def put(source: str, target: str) -> None:
    """The checkpoints of one run in the place of another's."""
    for path in Path(target, "checkpoints").iterdir():
        shutil.copy(Path(source, "checkpoints/best.ckpt"), path)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (REGRESSION, MLP, "the checkpoint is of a regression, the config of a classification"),
        (MLP, REGRESSION, "the checkpoint is of a classification, the config of a regression"),
        (DETECTOR, MLP, "the checkpoint is of a detection, the config of a classification"),
    ],
    ids=["regression", "classification", "detection"],
)
def test_a_checkpoint_of_another_task(here, theirs, ours, words):
    put(theirs, ours)
    assert words in refusal(5, "evaluate", ours)
    was, now = words.split(", the config of a ")
    assert f"task was '{was.split()[-1]}', is '{now}'" in refusal(2, "train", "--resume", ours, "train.epochs=2")


# --- another version -------------------------------------------------------------------------------------------------


def rewrite(run: str, change: Callable[[dict[str, Any]], None]) -> None:
    for path in Path(run, "checkpoints").iterdir():
        content = load_checkpoint(path)
        change(content)
        save_checkpoint(path, content)


NEWER = f"the checkpoint was written by mlcli 99.1, and this is {__version__}"


def test_a_newer_config_says_so(here):
    def add_a_key(content: dict[str, Any]) -> None:
        content["versions"]["mlcli"] = "99.1"
        content["config"]["model"]["wings"] = 2

    rewrite(MLP, add_a_key)
    resolved = here / MLP / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("hidden: [6]", "hidden: [6], wings: 2").replace(
        "\n  hidden:\n", "\n  wings: 2\n  hidden:\n"))  # fmt: skip
    assert "wings" in resolved.read_text()
    picture = str(next((here / "photos/test/cat").iterdir()))
    for command in (("evaluate", MLP), ("predict", MLP, picture)):
        said = refusal(5, *command)
        assert NEWER in said
        assert "pip install --upgrade mlcli" in said


def test_newer_weights_say_so(here):
    def rename_weights(content: dict[str, Any]) -> None:
        content["versions"]["mlcli"] = "99.1"
        content["model"] = {f"engine.{name}": weight for name, weight in content["model"].items()}

    rewrite(MLP, rename_weights)
    picture = str(next((here / "photos/test/cat").iterdir()))
    for command in (("evaluate", MLP), ("predict", MLP, picture)):
        assert NEWER in refusal(5, *command)


def test_a_newer_checkpoint_that_is_understood_is_taken(here):
    rewrite(MLP, lambda content: content["versions"].update(mlcli="99.1"))
    assert typed("evaluate", MLP).code == 0


def test_a_newer_format_says_so(here):
    for path in (here / MLP / "checkpoints").iterdir():
        content = bytearray(path.read_bytes())
        content[-TRAILER_BYTES + 6] += 1
        path.write_bytes(content)
    words = f"the checkpoint is of format 2, and mlcli {__version__} reads no newer than 1"
    for command in (("evaluate", MLP), ("train", "--resume", MLP, "train.epochs=2")):
        assert words in refusal(5, *command)


def test_an_older_one_that_does_not_fit_is_not_called_newer(here):
    rewrite(MLP, lambda content: content["config"]["model"].update(wings=2))
    picture = str(next((here / "photos/test/cat").iterdir()))
    said = refusal(5, "predict", MLP, picture)
    assert "does not fit this version of mlcli" in said
    assert "unknown key 'wings'" in said


def test_a_file_without_our_trailer_is_told_from_a_damaged_one(here):
    file = io.BytesIO()
    torch.save({"model": {}}, file)
    for path in (here / MLP / "checkpoints").iterdir():
        path.write_bytes(file.getvalue())
    assert "not a whole mlcli checkpoint" in refusal(5, "evaluate", MLP)
