"""After any kill and resume every point of every curve stands exactly once: in metrics.jsonl and in TensorBoard."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from mlcli.commands import train
from mlcli.engine.run import RunFolder, list_runs
from mlcli.tasks.classification.task import ClassificationTask
from tests.engine.rig import TIME_FIELDS, as_if_long_ago
from tests.reliability.forked import at_call, typed_in_child
from tests.reliability.tiny import metrics_without_times, write_data

OVERRIDES = ("train.log_every=2", "train.checkpoints={every_steps: 3}")
Curves = dict[str, list[tuple[int, float]]]
"""By folder and tag, step and value in the order they are read."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def into_checkpoint(descriptor: int) -> bool:
    """Whether it is a file that becomes a numbered checkpoint: what it covers is logged, and it is not there yet."""
    return ".step-" in os.readlink(f"/proc/self/fd/{descriptor}")


def of_the_folder(descriptor: int) -> bool:
    """Whether it is the folder of checkpoints, synced once a checkpoint stands in it."""
    return os.readlink(f"/proc/self/fd/{descriptor}").endswith("checkpoints")


def in_training(task: ClassificationTask, net: object, _: object) -> bool:
    return net is task.model  # the check before training takes a copy


INSTANTS: dict[str, Callable[[], None]] = {
    "in the middle of an epoch": lambda: at_call(ClassificationTask, "losses", kill, when=in_training, number=16),
    "between log and checkpoint": lambda: at_call(os, "fsync", kill, when=into_checkpoint, number=3),
    "right after a checkpoint": lambda: at_call(os, "fsync", kill, when=of_the_folder, number=4),
    "in an evaluation": lambda: at_call(ClassificationTask, "evaluate", kill, when=lambda *_: True, number=2),
    "while concluding": lambda: at_call(safetensors.torch, "save", kill, when=lambda *_: True),
}
"""In the order in which one run may meet them all: each is at most an epoch into a session."""


def lag_behind() -> None:
    """TensorBoard's files, as on a busy disk: the thread that writes them is late, unless somebody waits for it."""
    hurry, write, flush = threading.Event(), RecordWriter.write, EventFileWriter.flush

    def write_late(self: RecordWriter, content: bytes) -> None:
        hurry.wait(0.2)
        write(self, content)

    def flush_now(self: EventFileWriter) -> None:
        hurry.set()
        flush(self)
        hurry.clear()

    RecordWriter.write, EventFileWriter.flush = write_late, flush_now


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The data, and the run that nobody kills: here, so that all is imported before a fork."""
    folder = write_data(tmp_path_factory.mktemp("tiny"))
    train.run(folder / "mlp.yaml", [*OVERRIDES], name="whole", resume=None, root=folder / "runs")
    return folder


@pytest.fixture(scope="module")
def whole(data) -> RunFolder:
    (run,) = list_runs(data / "runs" / "whole")
    return run


@pytest.mark.parametrize("instants", [*([name] for name in INSTANTS), [*INSTANTS]], ids=lambda names: ", ".join(names))
def test_every_point_stands_once(data, whole, tmp_path, instants):
    check_killed_run(data, whole, tmp_path, [INSTANTS[name] for name in instants])


def test_every_point_stands_once_where_tensorboard_lags_behind(data, whole, tmp_path):
    def lagging() -> None:
        lag_behind()
        at_call(os, "fsync", kill, when=of_the_folder, number=2)

    check_killed_run(data, whole, tmp_path, [lagging])


def check_killed_run(data: Path, whole: RunFolder, folder: Path, kills: list[Callable[[], None]]) -> None:
    """A run that is killed so in each of its sessions in turn ends with the curves of one that is not."""
    command = ["train", data / "mlp.yaml", *OVERRIDES, "--out", folder / "runs", "--name", "cut"]
    for prepare in kills:
        killed = typed_in_child(folder, *command, prepare=prepare)
        assert killed.code == -signal.SIGKILL, killed.out
        (run,) = list_runs(folder / "runs")
        as_if_long_ago(run)
        command = ["train", "--resume", run.path]
    resumed = typed_in_child(folder, *command)
    assert resumed.code == 0, resumed.out
    assert metrics_without_times(run) == metrics_without_times(whole)
    assert_once(points_of(run), points_of(whole))
    assert_once(points_of_plugins(run), points_of_plugins(whole))


def assert_once(curves: Curves, expected: Curves) -> None:
    assert curves.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in curves[tag]] == [step for step, _ in points], tag
        if tag.partition("/")[2] not in TIME_FIELDS:
            assert curves[tag] == points


def points_of(run: RunFolder) -> Curves:
    """As read by the accumulator that scripts use."""
    curves = {}
    for split in ("train", "val", "test"):
        events = EventAccumulator(str(run.path / split), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            curves[f"{split}/{tag}"] = [(point.step, point.value) for point in events.Scalars(tag)]
    return curves


def points_of_plugins(run: RunFolder) -> Curves:
    """As read by TensorBoard's own server in Python, which keeps a sample of each curve in a reservoir."""
    events = EventMultiplexer().AddRunsFromDirectory(str(run.path)).Reload()
    curves = {}
    for split, tags in events.PluginRunToTagToContent("scalars").items():
        for tag in tags:
            points = events.Tensors(split, tag)
            curves[f"{split}/{tag}"] = [(p.step, tensor_util.make_ndarray(p.tensor_proto).item()) for p in points]
    return curves
