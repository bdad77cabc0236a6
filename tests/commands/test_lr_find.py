"""`mlcli lr-find`, typed: the curve, the picture, the override, and writing it into the YAML."""

import json

import pytest
from PIL import Image

from mlcli.experiment import Experiment

DRAWS = True

DIGITS = """# keep me
task: classification
data: {name: digits}   # small
model: {name: linear}
optimizer:
  name: sgd
  lr: 1e-6   # far too small
train: {device: cpu, threads: 1}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "digits.yaml").write_text(DIGITS)
    return tmp_path / "digits.yaml"


def test_page_picture_and_what_to_type(mlcli, config, tmp_path):
    typed = mlcli("lr-find", config)
    assert typed.code == 0
    assert not typed.err
    assert max(map(len, typed.out.split("next ")[0].splitlines())) <= 120
    assert "steepest descent" in typed.out
    assert "a tenth of the lowest" in typed.out
    assert "█" in typed.out
    assert f"mlcli train {config} optimizer.lr=0." in typed.out
    assert Image.open(tmp_path / "runs/lr-find/digits.png").size[0] > 700
    assert [path.name for path in (tmp_path / "runs").glob("[!.]*")] == ["lr-find"]
    assert config.read_text() == DIGITS


def test_the_suggestion_learns_more_than_what_stood_there(mlcli, config, tmp_path):
    report = json.loads(mlcli("lr-find", config, "--json").out)
    best = report["suggestion"]["best"]
    assert report["override"] == f"optimizer.lr={best:.2g}"
    assert 1e-3 < best < 1
    assert len(report["lrs"]) == len(report["losses"]) == len(report["smooth"])

    def accuracy(*overrides: str) -> float:
        mlcli(
            "train", config, "train.epochs=1", "train.baselines=false", "train.tensorboard.pictures=false", *overrides
        )
        newest = max(tmp_path.glob("runs/digits/*/status.json"), key=lambda path: path.stat().st_mtime_ns)
        return json.loads(newest.read_text())["scores"]["val"]["accuracy"]

    assert accuracy(report["override"]) > 0.8 > 0.5 > accuracy()


def test_apply_changes_the_value_alone(mlcli, config):
    typed = mlcli("lr-find", config, "--apply")
    assert typed.code == 0
    assert "wrote optimizer.lr" in typed.out
    lr = Experiment.load(config).config.optimizer.lr
    assert 1e-3 < lr < 1
    assert config.read_text() == DIGITS.replace("1e-6", str(lr))


def test_apply_writes_the_section_where_there_is_none(mlcli, config):
    config.write_text("task: classification\ndata: {name: digits}\nmodel: {name: linear}\n")
    mlcli("lr-find", config, "train.threads=1", "--apply")
    assert "optimizer: {name: sgd, lr: 0." in config.read_text()
    assert Experiment.load(config).config.optimizer.name == "sgd"


def test_apply_refuses_what_it_cannot_answer_for(mlcli, config):
    typed = mlcli("lr-find", config, "optimizer.name=adamw", "--apply")
    assert typed.code == 2
    assert "optimizer.name=adamw" in typed.err
    (config.parent / "status.json").write_text("{}")
    assert mlcli("lr-find", config, "--apply").code == 2
    assert config.read_text() == DIGITS


def test_regression_too(mlcli, config):
    config.write_text("task: regression\ndata: {name: diabetes}\nmodel: {name: linear}\n")
    report = json.loads(mlcli("lr-find", config, "train.threads=1", "--json").out)
    assert 1e-5 < report["suggestion"]["best"] < 0.2


def test_nothing_to_be_learned_is_said(mlcli, config):
    """A loss that clipping keeps from ever moving."""
    typed = mlcli("lr-find", config, "optimizer.clip_norm=1e-9", "--json")
    report = json.loads(typed.out)
    assert report["suggestion"]["best"] is None
    assert report["override"] is None
    page = mlcli("lr-find", config, "optimizer.clip_norm=1e-9").out
    assert "never fell" in page
    assert "mlcli inspect" in page


def test_mistakes_are_answered(mlcli, config, tmp_path):
    assert mlcli("lr-find").code == 2
    (tmp_path / "runs").write_text("a file")
    assert mlcli("lr-find", config).code == 6
