"""Whole trainings by forked ranks, as `mlcli train` makes them: the very run of one process, and what goes wrong."""

import contextlib
import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import mlcli.engine.launch
import mlcli.engine.step
from mlcli.commands import train
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.run import RunFolder, create_run, list_runs
from mlcli.errors import DivergedError, OutputError, RankError
from mlcli.experiment import Experiment
from mlcli.files import cannot_write
from mlcli.tasks.classification import build as classification
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.detection import build as detection
from mlcli.tasks.detection.config import Detection
from tests.engine.many import in_processes, on_ranks
from tests.engine.test_ranks import check_bits, check_scores, config_of, digits, measured
from tests.reliability.soak import LONG
from tests.reliability.tiny import metrics_without_times

CNN = """
task: classification
data: {name: digits}
model: {name: cnn, blocks: [{name: conv, channels: 4}, {name: pool}, {name: dropout, p: 0.2}]}
optimizer: {name: sgd, lr: 0.05}
train: {epochs: 1, batch_size: 128, log_every: 4, device: cpu, threads: 1, precision: fp32, baselines: false,
        tensorboard: {graph: false, layers: false, pictures: false}}
"""


def typed(ranks: Ranks, folder: Path, *overrides: str) -> int:
    """The exit code of `mlcli train` by one of the ranks, which have met already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlcli.engine.launch, "joined_ranks", lambda device: contextlib.nullcontext(ranks))
        return int(train.run(folder / "x.yaml", [*overrides], name="r", resume=None, root=folder / "runs"))


def run_of(folder: Path) -> RunFolder:
    (run,) = list_runs(folder / "runs")
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run_of(folder).path / "model.safetensors")


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """One for the run of one process, one for that of several."""
    for name in ("one", "several"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text(CNN)
    return tmp_path / "one", tmp_path / "several"


def check_same_run(one: Path, several: Path, *overrides: str) -> None:
    assert typed(ALONE, one, *overrides, "train.accumulate=2") == 0
    assert on_ranks(2, typed, several, *overrides) == [0, 0]
    expected, found = weights(one), weights(several)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics_without_times(run_of(one)) == metrics_without_times(run_of(several))


def test_two_ranks_write_the_run_of_one_process_with_all_that_may_be_asked_for(folders):
    check_same_run(
        *folders, "train.precision=bf16", "train.channels_last=true", "train.ema.decay=0.9", "augment=[{name: mixup}]"
    )


def test_so_they_do_where_the_scores_decide_what_happens_next(folders):
    """A lower learning rate, an early end; rare classes drawn more often; training samples measured."""
    check_same_run(
        *folders, "train.epochs=6", "train.measure_train=0.3", "train.early_stopping={patience: 2, min_delta: 0.9}",
        "schedule={name: plateau, patience: 1, min_delta: 0.9}",
        "loader={sampler: repeat_factor, repeat_below: 0.2}",
    )  # fmt: skip
    lines = metrics_without_times(run_of(folders[1]))
    assert {line["epoch"] for line in lines if line["split"] == "val"} == {1, 2, 3}  # stopped early
    assert len({line["lr"] for line in lines if "lr" in line}) > 1
    assert any(line["split"] not in ("train", "val", "test") for line in lines)


def test_so_they_do_where_layers_thaw(folders):
    one, several = folders
    file = one.parent / "learned.safetensors"
    safetensors.torch.save_file(Experiment.load(one / "x.yaml", []).build().model.state_dict(), file)
    frozen = [f"finetune={{weights: {file}, freeze: ['*conv*'], unfreeze_at: 2}}", "train.epochs=2"]
    check_same_run(one, several, *frozen)
    before, after = safetensors.torch.load_file(file), weights(several)
    assert any(not torch.equal(before[name], after[name]) for name in before if "conv" in name)


def too_large_on_the_last(ranks: Ranks, folder: Path, *overrides: str) -> int:
    """As `typed`, where the last rank has room for 32 samples at once only."""
    whole = mlcli.engine.step.forward_backward

    def forward_backward(task, net, batch, *rest):
        if ranks.rank == 1 and len(batch) > 32 and rest[-1] is not None:  # not while rehearsing
            raise torch.OutOfMemoryError("no room")
        return whole(task, net, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlcli.engine.step, "forward_backward", forward_backward)
        return typed(ranks, folder, *overrides)


def test_all_cut_their_parts_when_memory_runs_out_on_one(folders):
    one, several = folders
    assert typed(ALONE, one, "train.accumulate=4") == 0
    assert on_ranks(2, too_large_on_the_last, several, "train.auto_microbatch=true") == [0, 0]
    expected, found = weights(one), weights(several)
    assert all(torch.allclose(expected[name], found[name], rtol=1e-4, atol=1e-6) for name in expected)
    told = "".join(path.read_text() for path in run_of(several).path.glob("*.jsonl"))
    assert told.count("micro-batches of 32 from here on, 4 to a step") == 1


# --- detectors -------------------------------------------------------------------------------------------------------


class GroupNorm(nn.GroupNorm):
    """In place of batch normalisation, which sees other samples in two parts than in the whole."""

    def __init__(self, channels: int, **_: object) -> None:
        super().__init__(1, channels)


def detector(name: str, batch_size: int, **options: object) -> Detection:
    return config_of(
        Detection, "detection", data={"name": "scenes", "images": 20, "image_size": 64}, loader={"workers": 0},
        model={"name": name, "width": 4, **options}, augment=[{"name": "horizontal_flip"}],
        train={"batch_size": batch_size},
    )  # fmt: skip


def convolutions(**options: object) -> Classification:
    blocks = [{"name": "conv", "channels": 4, **options}, {"name": "pool"}, {"name": "dropout", "p": 0.2}]
    return digits(model={"name": "cnn", "blocks": blocks})


@pytest.mark.parametrize(
    ("config", "build", "steps"),
    [
        (detector("mask_rcnn", 4), detection, 2),
        (convolutions(batch_norm=True), classification, 50 if LONG else 5),
        *[(convolutions(), classification, 50), (detector("yolo", 4, strides=[8, 16]), detection, 50)][: 2 * LONG],
    ],
    ids=["mask_rcnn", "cnn", "cnn without norm", "yolo"][: 2 + 2 * LONG],
)
def test_two_ranks_are_bit_equal_to_two_parts_with_normalised_groups(monkeypatch, config, build, steps):
    monkeypatch.setattr(nn, "BatchNorm2d", GroupNorm)
    check_bits(config, build, steps)


def test_masks_are_measured_the_same_by_any_number_of_ranks():
    config = detector("mask_rcnn", 4, max_detections=5)
    assert "segm_map" in measured(ALONE, config, detection, 1)[0]
    check_scores(config, detection, (1, 2, 7), sizes=(2, 3) if LONG else (3,))


# --- failing ---------------------------------------------------------------------------------------------------------


def with_full_disk(ranks: Ranks, folder: Path) -> int:
    """As `typed`, where the first rank finds the disk full when it writes its second checkpoint."""
    from mlcli.engine import saver

    saves, save = 0, saver.save_checkpoint

    def full(*arguments, **keywords):
        nonlocal saves
        saves += 1
        if ranks.is_first and saves > 1:
            raise cannot_write(Path("x.ckpt"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return save(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "save_checkpoint", full)
        return typed(ranks, folder, "train.checkpoints.every_steps=2", "train.epochs=3")


def test_a_full_disk_of_the_first_ends_all_and_what_was_saved_is_good(folders):
    _, folder = folders
    first, second = on_ranks(2, with_full_disk, folder)
    assert isinstance(first, OutputError)
    assert isinstance(second, RankError)
    assert second.what == f"rank 0 failed: {first.what}"
    assert json.loads((run_of(folder).path / "status.json").read_text())["exit_code"] == 6
    assert len(list(run_of(folder).checkpoints.glob("*.ckpt"))) == 1


def with_nan_on_the_last(ranks: Ranks, folder: Path) -> int:
    """As `typed`, where in the third step a gradient of the last rank is not a number."""
    calls, whole = 0, mlcli.engine.step.forward_backward

    def forward_backward(task, net, batch, *rest):
        nonlocal calls
        terms = whole(task, net, batch, *rest)
        calls += 1
        if ranks.rank == 1 and calls == 3:
            next(net.parameters()).grad[0] = torch.nan
        return terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlcli.engine.step, "forward_backward", forward_backward)
        return typed(ranks, folder)


def test_what_is_not_a_number_on_one_rank_ends_all_before_the_weights_move(folders):
    _, folder = folders
    first, second = on_ranks(2, with_nan_on_the_last, folder)
    assert isinstance(first, DivergedError)
    assert (type(second), second.what) == (DivergedError, first.what)
    status = json.loads((run_of(folder).path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("diverged", int(first.code))
    assert list(run_of(folder).checkpoints.glob("*.ckpt")) == []


def with_another(ranks: Ranks, folder: Path) -> int:
    """As `typed`, where the last rank's YAML has another learning rate."""
    return typed(ranks, folder, *["optimizer.lr=0.1"] * ranks.rank)


def test_another_yaml_of_another_rank_is_refused_by_the_key(folders):
    for error in on_ranks(2, with_another, folders[1]):
        assert isinstance(error, RankError)
        assert error.what == "rank 1 has other config than the first"
        assert error.where == "optimizer.lr is 0.1, not 0.05"
    assert list_runs(folders[1] / "runs") == []


ROWS = [f"{a},{b},{a * b % 3}" for a in range(8) for b in range(9)]


def of_rows(folder: Path) -> list[str]:
    mlp = ["model={name: mlp, hidden: [4]}", "train.batch_size=16"]
    return [f"data={{name: csv, file: {folder / 'x.csv'}, target: label}}", *mlp]


def with_another_row(ranks: Ranks, folder: Path, row: int) -> int:
    """As `typed`, where the last rank finds another number in a CSV file than the first did."""
    build = Experiment.build

    def built(plan: Experiment, *known: object):
        other = [f"9{line}" if ranks.rank and number == row else line for number, line in enumerate(ROWS)]
        (folder / "x.csv").write_text("\n".join(["a,b,label", *other]))
        return build(plan, *known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "build", built)
        return typed(ranks, folder, *of_rows(folder))


@pytest.mark.parametrize(("split", "what"), [("train", "data"), ("val", "samples")])
def test_other_data_of_another_rank_are_refused(folders, split, what):
    """A row of training moves their mean; one of validation is noticed by what it is."""
    folder = folders[1]
    (folder / "x.csv").write_text("\n".join(["a,b,label", *ROWS]))
    task = Experiment.load(folder / "x.yaml", of_rows(folder)).build()
    row = next(int(name.rpartition(":")[2]) - 2 for name, of in task.membership().rows() if of == split)
    for error in on_ranks(2, with_another_row, folder, row):
        assert isinstance(error, RankError), error
        assert error.what == f"rank 1 has other {what} than the first"
        assert error.where.startswith("mean is [" if split == "train" else "val is '")
    assert list_runs(folder / "runs") == []


def slow_to_write(ranks: Ranks, folder: Path) -> int:
    """As `typed`, where nobody waits longer than a second within a step, and the first rank writes for two."""
    from mlcli.engine import distributed, trainer

    save = trainer.CheckpointSaver.save

    def slow(*arguments):
        time.sleep(2)
        save(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "STEP_TIMEOUT_S", 1.0)
        patch.setattr(trainer.CheckpointSaver, "save", slow)
        return typed(ranks, folder, "loader.timeout=1", "train.checkpoints.every_steps=4", "train.log_every=1")


def test_a_first_rank_that_writes_for_long_is_waited_for(folders):
    assert on_ranks(2, slow_to_write, folders[1]) == [0, 0]


# --- going on --------------------------------------------------------------------------------------------------------


def stopped_in(ranks: Ranks, folder: Path, step: int, resume: str | None) -> int:
    """The exit code of a training, or of going on with one, whose last rank is sent SIGTERM in a step (from 0)."""
    gradients = mlcli.engine.step.Stepper.gradients

    def stopping(stepper, *arguments):
        if stepper.state.progress.step == step and ranks.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return gradients(stepper, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlcli.engine.launch, "joined_ranks", lambda device: contextlib.nullcontext(ranks))
        patch.setattr(mlcli.engine.step.Stepper, "gradients", stopping)
        config = None if resume else folder / "x.yaml"
        return int(train.run(config, [], name=None if resume else "r", resume=resume, root=folder / "runs"))


def test_two_then_one_then_three_ranks_go_on_with_the_same_samples_and_schedule(folders):
    one, several = folders
    for folder in folders:
        (folder / "x.yaml").write_text(CNN.replace("p: 0.2", "p: 0"))  # dropout is drawn for each part
    assert typed(ALONE, one) == 0
    assert on_ranks(2, stopped_in, several, 2, None) == [143, 143]
    assert stopped_in(ALONE, several, 5, "r") == 143
    assert on_ranks(3, stopped_in, several, 10**9, "r") == [0, 0, 0]
    ours, theirs = metrics_without_times(run_of(one)), metrics_without_times(run_of(several))
    assert [(line["split"], line["step"]) for line in ours] == [(line["split"], line["step"]) for line in theirs]
    for line, other in zip(ours, theirs, strict=True):
        assert line.pop("split") == other.pop("split")
        assert other == pytest.approx(line, rel=1e-4)
    expected, found = weights(one), weights(several)
    assert all(torch.allclose(expected[name], found[name], rtol=1e-3, atol=1e-5) for name in expected)


# --- one name --------------------------------------------------------------------------------------------------------


def claimed(ranks: Ranks, root: Path) -> str:
    return str(ranks.from_first(lambda: create_run(root, "same").path))


def claimed_by_two(root: Path) -> list[str]:
    return on_ranks(2, claimed, root)


def test_starts_that_race_for_one_name_have_a_folder_each(tmp_path):
    starts = 64 if LONG else 3
    found = in_processes(starts, claimed_by_two, tmp_path)
    assert all(first == second for first, second in found)
    assert len({first for first, _ in found}) == starts
    assert len(list_runs(tmp_path)) in (0, starts)  # a run is listed once it has a status
