"""Every shipped YAML is a document, loads, trains, and keeps what its first comment promises where that is quick."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcli.engine.run import list_runs
from mlcli.experiment import Experiment

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
QUIET = ["train.baselines=false", "train.tensorboard={graph: false, pictures: false}"]
EMBEDDED = {"digits", "xor", "breast_cancer", "diabetes"}


def title(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_they_are_all_here():
    assert len(CONFIGS) >= 28


@pytest.mark.parametrize("path", CONFIGS, ids=title)
def test_a_config_is_a_document_that_loads(path):
    text = path.read_text()
    comment = text[: text.index("\ntask:")]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f"mlcli train configs/{path.relative_to(ROOT / 'configs')}" in comment
    assert re.search(r"# (Measured 20\d\d-\d\d-\d\d on .+:|Not measured: )", comment)
    experiment = Experiment.load(path)
    assert Experiment.from_plain(experiment.plain()).config == experiment.config
    assert experiment.config.task == path.parent.name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of two classes and noise, in the size of CIFAR."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def stand_in(path: Path, pictures: Path) -> list[str]:
    """Overrides that put the test's small pictures in the place of data or weights that are not at hand."""
    config = Experiment.load(path).config
    if config.data.name in EMBEDDED:
        return []
    if config.task == "detection":
        fewer = ["model.proposals.most=50"] if hasattr(config.model, "proposals") else []
        return [*fewer, "data={name: scenes, images: 20, image_size: 64}", "train.batch_size=10"]  # two steps
    size = "image_size: 64" if config.data.name == "folder" else f"channels: {1 if config.data.name == 'mnist' else 3}"
    overrides = [f"data={{name: folder, root: {pictures}, {size}}}", "train.batch_size=8"]
    return [*overrides, "model.weights=none"] if config.model.name in ("torchvision", "timm") else overrides


@pytest.mark.parametrize("path", CONFIGS, ids=title)
def test_a_config_trains(mlcli, path, pictures):
    done = mlcli("train", path, "train.epochs=1", "train.threads=1", *QUIET, *stand_in(path, pictures))
    assert done.code == 0, done.err


def final_scores(mlcli, tmp_path: Path, name: str, split: str) -> dict[str, float]:
    done = mlcli(
        "train", next(path for path in CONFIGS if path.stem == name), "train.threads=1", "train.baselines=false"
    )
    assert done.code == 0, done.err
    (run,) = list_runs(tmp_path / "runs")
    return run.status()["scores"][split]


def test_the_demo_keeps_its_promise(mlcli, tmp_path):
    assert final_scores(mlcli, tmp_path, "mlp-digits", "test")["accuracy"] >= 0.97


def test_a_perceptron_fails_on_xor(mlcli, tmp_path):
    assert final_scores(mlcli, tmp_path, "perceptron-xor", "test")["accuracy"] <= 0.75


def test_an_mlp_without_activations_fails_on_xor_just_the_same(mlcli, tmp_path):
    assert final_scores(mlcli, tmp_path, "mlp-linear-xor", "test")["accuracy"] <= 0.75


def test_an_mlp_solves_xor(mlcli, tmp_path):
    scores = final_scores(mlcli, tmp_path, "mlp-xor", "test")
    assert scores["accuracy"] == 1.0
    assert scores["loss"] < 0.01
