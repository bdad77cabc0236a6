"""The same seed makes the same bits, whoever reads the data, however often it is logged, judged, drawn or repeated."""

import json
from pathlib import Path

import pytest

from mlcli.commands import train
from mlcli.engine import runtime
from mlcli.engine.checkpoint import load_checkpoint
from mlcli.engine.run import RunFolder, list_runs
from tests.reliability.soak import LONG, soaked
from tests.reliability.tiny import digest, experiment, session, write_data

SHORT = "train.epochs=2"
READERS = (
    *(f"loader={{cache: none, workers: {workers}}}" for workers in (1, 2, 4)),
    "loader={cache: none, workers: 2, prefetch: 5}",
    "loader={cache: ram, workers: 0}",
    "loader={cache: ram, workers: 4}",
    "loader={cache: device, workers: 2}",
)
SILENT = ("train.log_every=1000", "train.evaluate_every=1000", "train.checkpoints={every_epochs: 1000}",
          "train.tensorboard={graph: false, layers: false, pictures: false}")  # fmt: skip
LOUD = ("train.log_every=1", "train.evaluate_every=1", "train.checkpoints={every_steps: 1}",
        "train.tensorboard={share: 1.0}")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny"))


def weights_of(root: Path, config) -> str:
    """SHA-256 of what was learned."""
    t, _ = session(root, config)
    t.run.unlock()
    return digest(t.state.model.state_dict())


@pytest.fixture(scope="module")
def reference(data) -> dict[str, str]:
    """Of each model, read without workers and held nowhere."""
    return {name: weights_of(data / "runs", experiment(data, name, SHORT)) for name in ("cnn", "detection")}


@pytest.mark.parametrize(
    ("name", "reader"),
    [("cnn", reader) for reader in READERS]
    + [("detection", reader) for reader in (READERS if LONG else READERS[1::2])],
)
def test_who_reads_the_data_changes_no_bit(data, tmp_path, reference, name, reader):
    assert weights_of(tmp_path, experiment(data, name, SHORT, reader)) == reference[name]


@pytest.mark.parametrize("name", ["cnn", "detection"])
def test_repeating_changes_no_bit_but_another_seed_does(data, tmp_path, reference, name):
    for _ in range(soaked(1)):
        assert weights_of(tmp_path, experiment(data, name, SHORT)) == reference[name]
    assert weights_of(tmp_path, experiment(data, name, SHORT, "train.seed=1")) != reference[name]


@pytest.mark.parametrize("name", ["cnn", "detection", "regression"])
def test_logging_judging_drawing_and_saving_change_no_bit(data, tmp_path, name):
    """From the command line's own entrance, so that all that is done around the training is done."""
    learned = set()
    for label, overrides in (("silent", SILENT), ("loud", LOUD)):
        train.run(data / f"{name}.yaml", [SHORT, *overrides], name=label, resume=None, root=tmp_path)
        (run,) = list_runs(tmp_path / label)
        learned.add(digest(load_checkpoint(run.checkpoint("last"))["model"]))
    assert len(learned) == 1


@pytest.fixture
def interrupted(data, tmp_path) -> RunFolder:
    """A run of one thread that has not reached its end."""
    train.run(data / "mlp.yaml", ["train.epochs=1"], name="run", resume=None, root=tmp_path)
    (run,) = list_runs(tmp_path / "run")
    return run


def test_the_number_of_threads_is_kept_and_another_one_is_pointed_out(interrupted, capsys):
    assert json.loads((interrupted.path / "environment.json").read_text())["threads"] == 1
    train.run(None, ["train.epochs=2"], name=None, resume=str(interrupted.path), root=Path("runs"))
    assert "warning" not in capsys.readouterr().out
    train.run(None, ["train.epochs=3", "train.threads=2"], name=None, resume=str(interrupted.path), root=Path("runs"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert "threads was 1, is 2" in line


def test_another_format_is_pointed_out(data, tmp_path, monkeypatch, capsys):
    """`train.precision: auto` is another one on a processor without bf16 units."""
    monkeypatch.setattr(runtime, "has_bf16_units", lambda: True)
    train.run(data / "cnn.yaml", ["train.epochs=1"], name="run", resume=None, root=tmp_path)
    (run,) = list_runs(tmp_path / "run")
    monkeypatch.setattr(runtime, "has_bf16_units", lambda: False)
    train.run(None, ["train.epochs=2"], name=None, resume=str(run.path), root=Path("runs"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert "precision was bf16, is fp32" in line
