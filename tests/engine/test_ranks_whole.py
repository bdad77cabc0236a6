"""Whole trainings by forked ranks, as `mlcli train` makes them: the very run of one process, and what goes wrong."""

import contextlib
import errno
import json
import os
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
from mlcli.tasks.detection import build as detection
from mlcli.tasks.detection.config import Detection
from tests.engine.many import in_processes, on_ranks
from tests.engine.test_ranks import check_bits, config_of, measured
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
        patch.setattr(mlcli.engine.launch, "joined", lambda device: contextlib.nullcontext(ranks))
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


def detector(name: str, batch_size: int, size: int = 64, **options: object) -> Detection:
    return config_of(
        Detection, "detection", data={"name": "scenes", "images": 20, "image_size": size}, loader={"workers": 0},
        model={"name": name, "width": 4, **options}, augment=[{"name": "horizontal_flip"}],
        train={"batch_size": batch_size},
    )  # fmt: skip


@pytest.mark.parametrize("config", [detector("mask_rcnn", 4), detector("yolo", 4, strides=[8, 16])][: 1 + LONG],
                         ids=lambda config: config.model.name)  # fmt: skip
def test_detectors_are_bit_equal_to_two_parts(monkeypatch, config):
    monkeypatch.setattr(nn, "BatchNorm2d", GroupNorm)
    check_bits(config, detection, steps=3)


HELD = (1, 2, 7)


def all_measured(ranks: Ranks, config: Detection) -> list[tuple[dict[str, float], dict]]:
    return [measured(ranks, config, detection, held) for held in HELD]


def test_masks_are_measured_the_same_by_any_number_of_ranks():
    config = detector("mask_rcnn", 1, max_detections=5)
    expected = all_measured(ALONE, config)
    assert "segm_map" in expected[0][0]
    for size in (2, 3) if LONG else (3,):
        for found in on_ranks(size, all_measured, config):
            for (theirs, their_details), (scores, details) in zip(found, expected, strict=True):
                assert {name: f"{value:.6g}" for name, value in theirs.items()} == {
                    name: f"{value:.6g}" for name, value in scores.items()
                }
                assert json.dumps(their_details, default=str) == json.dumps(details, default=str)


# --- failing ---------------------------------------------------------------------------------------------------------


def with_full_disk(ranks: Ranks, folder: Path) -> int:
    """As `typed`, where the first rank finds the disk full when it writes its second checkpoint."""
    from mlcli.engine import saver

    saves, save = 0, saver.save_checkpoint

    def full(*arguments, **keywords):
        nonlocal saves
        saves += 1
        if ranks.is_first and saves > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
