"""What is measured of real little data sets, and what becomes of broken ones."""

import faulthandler
import os
import re
import signal
import time
import types
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mlcli.data.augmentations import CutMix, HorizontalFlip, RandomCrop, RandomResizedCrop
from mlcli.data.feed import BatchFeed
from mlcli.data.source import Source
from mlcli.engine.runtime import decide_runtime
from mlcli.errors import ConfigError, DataError, ExitCode
from mlcli.experiment import Experiment
from mlcli.machine.bench import throughput
from mlcli.machine.bench.bottleneck import find_bottleneck
from mlcli.machine.bench.disk import warm_up
from mlcli.machine.bench.learner import Learner
from mlcli.machine.bench.throughput import Bench, worker_counts
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.regression.config import Regression
from tests.machine.slow import BATCH, SIDE, SlowFiles, config_of, slow_task, write_images

BUDGET_S = 0.8
TRAIN = {"batch_size": 8, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), per_class=40)


def measure(config, task=None, *, full: bool = False, budget_s: float = BUDGET_S):
    bench = Bench(task or Experiment(config, "").build(), config, decide_runtime(config), budget_s=budget_s, cpus=2)
    return bench.measure(full=full)


def named(found):
    return {stage.name: stage for stage in found.stages}


def test_every_stage_of_the_stream_path(images):
    augment = (HorizontalFlip(name="horizontal_flip"), CutMix(name="cutmix"), RandomCrop(name="random_crop"))
    config = config_of(images).model_copy(update={"augment": augment})
    found = measure(config, full=True)
    names = [stage.name for stage in found.stages]
    assert names == ["read file, cold", "read file, warm", "decode and resize", "take batch from worker", "augment",
                     "horizontal_flip", "random_crop", "cutmix", "copy to the device"]  # fmt: skip
    assert all(stage.timing for stage in found.stages[1:-1])
    assert [loading.workers for loading in found.loader] == [0, 1, 2]
    assert [joint.workers for joint in found.together] == [0, 1, 2]
    assert all(loading.first_batch_s > 0 for loading in found.loader)
    assert found.scan is not None
    assert found.scan.samples == 80
    assert found.data.bytes_on_disk == pytest.approx(80 * named(found)["read file, warm"].bytes_per_sample)
    assert found.data.bytes_as_tensors == 80 * 3 * SIDE * SIDE
    assert found.batch_size == BATCH


def test_a_random_resized_crop_is_cut_while_decoding(images):
    config = config_of(images).model_copy(update={"augment": (RandomResizedCrop(name="random_resized_crop"),)})
    found = measure(config)
    assert "decode and crop" in named(found)
    assert "augment" not in named(found)
    assert found.data.crops


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(Classification(task="classification", data={"name": "digits"}, model={"name": "linear"},
                                    augment=({"name": "horizontal_flip"},), train=TRAIN), id="images"),
        pytest.param(Classification(task="classification", data={"name": "iris"}, model={"name": "linear"},
                                    train=TRAIN), id="rows"),
        pytest.param(Regression(task="regression", data={"name": "diabetes"}, model={"name": "linear"},
                                train={**TRAIN, "accumulate": 2}), id="regression"),
    ],
)  # fmt: skip
def test_data_in_memory_have_one_number(config):
    found = measure(config, full=True)
    assert found.loader == ()
    assert [held.cache for held in found.held] == ["ram"]
    assert [joint.workers for joint in found.together] == [0]
    assert found.data.in_memory
    assert "read file, warm" not in named(found)
    assert find_bottleneck(found).nothing_to_do
    assert found.scan is not None
    assert found.scan.samples == found.data.samples


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cached_set_of_files(images, cache, tmp_path):
    found = measure(config_of(images, cache=cache, cache_folder=str(tmp_path)))
    assert [loading.workers for loading in found.loader] == [0, 1, 2]  # what filling the cache takes
    assert [joint.workers for joint in found.together] == [0]
    assert found.configured_loader == next(held.timing for held in found.held if held.cache == cache)
    assert find_bottleneck(found).nothing_to_do


def test_the_data_are_not_touched_and_nothing_runs_on(images):
    import multiprocessing

    before = {path: path.read_bytes() for path in images.rglob("*.jpg")}
    measure(config_of(images))
    assert {path: path.read_bytes() for path in images.rglob("*.jpg")} == before
    assert multiprocessing.active_children() == []


class SlowLearner(torch.nn.Module):
    """Takes its time for every image."""

    def __init__(self, model, seconds=0.01):
        super().__init__()
        self.model, self.seconds, self.calls = model, seconds, 0

    def forward(self, inputs):
        self.calls += 1
        time.sleep(self.seconds * len(inputs))
        return self.model(inputs)


def test_a_slow_model_is_measured_with_the_batches_it_will_have(images):
    config = config_of(images, workers=1)
    task = Experiment(config, "").build()
    task.model = slow = SlowLearner(task.model, 0.05)
    found = measure(config, task, budget_s=0.4)  # a step may take 10 ms, and takes 0.4 s
    assert slow.calls <= 4
    assert (found.batch_size, found.is_slow) == (BATCH, True)
    assert found.model.step.seconds >= 0.05
    assert [joint.workers for joint in found.together] == [loading.workers for loading in found.loader] == [1]
    verdict = find_bottleneck(found)
    assert verdict.nothing_to_do
    assert re.search(
        r"a batch of 8 takes \d.*s, too slow to measure in the time, so this is a rough guess", verdict.sentence
    )


class SlowAtFirst(torch.nn.Module):
    """Takes its time for the first batch, as a GPU does."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, inputs):
        self.calls += 1
        if self.calls == 1:
            time.sleep(1.5)
        return self.model(inputs)


def test_a_first_step_that_is_slow_makes_no_slow_model(images):
    config = config_of(images)
    task = Experiment(config, "").build()
    task.model = SlowAtFirst(task.model)
    found = measure(config, task)
    assert not found.is_slow
    assert found.model.step.seconds < 1.5 / BATCH / 2
    assert [joint.workers for joint in found.together] == [0, 1, 2]


@pytest.mark.parametrize(
    ("device", "steps_s", "fastest_s", "taken"),
    [
        pytest.param("cpu", [1, 1, 1, 1], 1, 2, id="settled at once"),
        pytest.param("cpu", [90, 1, 1, 1], 1, 3, id="a slow first step"),
        pytest.param("cpu", [90, 30, 10, 3, 1, 1], 1, 6, id="faster and faster"),
        pytest.param("cuda", [90, 90, 90, 1, 1], 1, 5, id="a GPU that takes its time"),
        pytest.param("cpu", [2.0**-number for number in range(20)], 2.0**-9, 10, id="never settled"),
    ],
)
def test_a_model_is_warm_when_steps_get_no_faster(images, monkeypatch, device, steps_s, fastest_s, taken):
    config = config_of(images)
    task = Experiment(config, "").build()
    runtime = decide_runtime(config)
    learner = Learner(task, config, runtime, task.feed(runtime))
    learner.runtime = replace(runtime, device=torch.device(device))
    left = iter(steps_s)
    monkeypatch.setattr(learner, "_timed", lambda *_: (next(left), 0.0, 0.0))
    assert learner.warm_up([], budget_s=60) == fastest_s
    assert len(steps_s) - len([*left]) == taken
    throughput_then = learner.warm_up_throughput()
    assert throughput_then.step.laps == throughput_then.forward.laps == taken - 1


def test_a_late_part_gets_less_time_but_never_nothing(images, monkeypatch):
    config = config_of(images)
    bench = Bench(Experiment(config, "").build(), config, decide_runtime(config), budget_s=100.0, cpus=2)
    clock = types.SimpleNamespace(perf_counter=lambda: bench.began + passed_s)
    monkeypatch.setattr(throughput, "time", clock)
    for passed_s, share_s in ((0, 30), (80, 20), (160, 15)):  # noqa: B007 (the clock reads it)
        assert bench._share("together") == pytest.approx(share_s)


@pytest.mark.parametrize(
    ("limit", "configured", "counts"),
    [(1, 0, [0, 1]), (2, 2, [0, 1, 2]), (6, 6, [0, 1, 2, 4, 6]), (8, 8, [0, 1, 2, 4, 8]), (2, 12, [0, 1, 2, 12])],
)
def test_worker_counts(limit, configured, counts):
    assert worker_counts(limit, configured) == counts


# --- bad input -------------------------------------------------------------------------------------------------------


def test_fewer_samples_than_a_batch(images):
    config = config_of(images)
    train = config.train.model_copy(update={"batch_size": 1000})
    with pytest.raises(ConfigError, match="batch_size 1000 is more than the 56 samples"):
        measure(config.model_copy(update={"train": train}))


def test_an_unreadable_file_that_only_a_full_scan_meets(tmp_path):
    root = write_images(tmp_path / "images", per_class=40)
    config = config_of(root)
    task = Experiment(config, "").build()
    damaged = task.source.splits["val"].path(3)
    with open(damaged, "r+b") as file:
        file.truncate(200)
    measure(config, task)
    with pytest.raises(DataError) as error:
        measure(config, task, full=True)
    assert error.value.where == damaged


@dataclass(frozen=True, eq=False)
class DeadlyFiles(SlowFiles):
    """Files whose reading kills a worker, but not this process."""

    here: int = 0

    def read(self, indices):
        if os.getpid() != self.here:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(indices)


def test_workers_that_die(images):
    config = config_of(images)
    task = slow_task(config)
    splits = {split: DeadlyFiles(**vars(samples), here=os.getpid()) for split, samples in task.source.splits.items()}
    task.source = Source(task.source.info, splits)
    with pytest.raises(DataError, match="was killed by SIGKILL") as error:
        measure(config, task)
    assert error.value.code == ExitCode.DATA


def test_an_image_of_another_size_is_named(tmp_path):
    root = write_images(tmp_path / "images", per_class=20)
    config = config_of(root)
    config = config.model_copy(update={"data": config.data.model_copy(update={"image_size": None})})
    task = Experiment(config, "").build()
    Image.new("RGB", (5, 5)).save(task.source.splits["train"].path(0))
    with pytest.raises(DataError, match="image is 5x5 pixels"):
        measure(config, task)


def test_the_loader_is_measured_with_files_that_were_not_read_a_moment_ago(images, monkeypatch):
    """Each measurement goes on where the one before ended, so no file comes from the processor's caches."""
    asked, train_batches = [], BatchFeed.train_batches

    def noted(feed, start_step):
        if {what: value for what, value, _ in feed.choices} == {"cache": "none", "workers": "0"}:
            asked.append(start_step)
        return train_batches(feed, start_step)

    monkeypatch.setattr(BatchFeed, "train_batches", noted)
    monkeypatch.setattr(throughput, "worker_counts", lambda *_: [0])
    # Of a few files, as many as a slow machine reads in time, the measurements go round.
    monkeypatch.setattr(throughput, "warm_up", lambda paths, budget_s: len([*paths]))
    measure(config_of(images, workers=0))
    alone, together = asked
    assert alone == 0
    assert together > 0


def test_warming_up_tells_how_far_it_came(tmp_path):
    paths = [str(tmp_path / f"{number}.bin") for number in range(5)]
    for path in paths:
        Path(path).write_bytes(b"x")
    assert warm_up(paths, budget_s=60) == 5
    assert warm_up(paths, budget_s=0) == 1
