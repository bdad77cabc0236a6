"""What a run leaves to look at while it goes on: layers, pictures, times; each step once, also after a resume."""

import errno
import json
import os
import re
from collections import Counter

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from mlcli.engine.launch import conclude
from mlcli.engine.layer_stats import LayerMonitor, LayerStats
from mlcli.engine.log import RunLog
from mlcli.engine.meter import Budget
from mlcli.engine.run import create_run
from mlcli.engine.trainer import fit
from tests.engine.rig import StopAfter, as_if_long_ago, fingerprint, settings_of, train, training
from tests.engine.toy import ToyTask

ALWAYS = {"log_every": 2, "tensorboard": {"graph": False}}


def layers_of(t) -> list[dict]:
    return [json.loads(line) for line in (t.run.path / "layers.jsonl").read_text().splitlines()]


def events_of(t) -> EventAccumulator:
    events = EventAccumulator(str(t.run.path / "train"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def eager(t) -> None:
    """Let everything be shown whenever it may be, whatever it costs."""
    t.budget = Budget(1e6, {"pictures": 0.0, "layers": 0.0})
    t.layers = LayerMonitor(t.state.model, t.budget)


def test_layers_are_written_at_log_points(tmp_path):
    t = training(tmp_path, ToyTask(), settings_of(train=ALWAYS))
    eager(t)
    fit(t, t.feed.train_batches(0))
    t.log.close()
    looks = [line for line in layers_of(t) if line["layers"]]
    assert [look["step"] for look in looks] == [2, 4, 6, 8, 10, 12]
    assert [layer["name"] for layer in looks[0]["layers"]] == ["0", "4"]
    assert all(layer["gradient_norm"] > 0 for look in looks for layer in look["layers"])


def test_train_and_val_stand_in_one_chart(tmp_path):
    """TensorBoard draws a tag of several runs in one chart, and calls a run as its folder."""
    t = training(tmp_path, ToyTask(), settings_of(train=ALWAYS))
    fit(t, t.feed.train_batches(0))
    t.log.close()
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload().PluginRunToTagToContent("scalars")
    name = str(t.run.path.relative_to(tmp_path))
    assert sorted(runs) == [f"{name}/train", f"{name}/val"]
    assert "loss" in runs[f"{name}/train"].keys() & runs[f"{name}/val"].keys()
    assert [len(list((tmp_path / run).iterdir())) for run in runs] == [1, 1]


def test_what_version_0_1_0_wrote_for_tensorboard_stays_the_runs(tmp_path):
    run = create_run(tmp_path, "older")
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=0) as writer:
        for step in range(1, 7):
            writer.add_scalar("loss/train", 0.0, step)
    as_if_long_ago(run)
    log = RunLog(run, 0, 4)
    log.scalars("train", 5, 1, {"loss": 1.0})
    log.close()
    events = EventAccumulator(str(run.path / "train")).Reload()
    assert [point.step for point in events.Scalars("loss/train")] == [1, 2, 3, 4]
    assert [point.step for point in events.Scalars("loss")] == [5]
    assert not (run.path / "tensorboard").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ELOOP, errno.EIO])
def test_no_trace_of_the_thread_that_cannot_write_for_tensorboard(tmp_path, monkeypatch, capfd, number):
    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(RecordWriter, "write", fails)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        RunLog(create_run(tmp_path, "full"), 0, 0).tensorboard.flush()  # as late as here, if not earlier
    assert capfd.readouterr().err == ""


def test_watching_changes_no_bit(tmp_path):
    silent = {"log_every": 2, "tensorboard": {"layers": False, "pictures": False}}
    watched = training(tmp_path / "a", ToyTask(dropout=0.3), settings_of(train=ALWAYS))
    eager(watched)
    fit(watched, watched.feed.train_batches(0))
    alone, _ = train(tmp_path / "b", ToyTask(dropout=0.3), settings_of(train=silent))
    assert fingerprint(watched.state) == fingerprint(alone.state)
    assert not (alone.run.path / "layers.jsonl").exists()


def test_pictures_come_with_evaluations(tmp_path):
    t = training(tmp_path, ToyTask(), settings_of(train=ALWAYS))
    eager(t)
    fit(t, t.feed.train_batches(0))
    t.log.close()
    events = events_of(t)
    tags = [tag for tag in events.Tags()["images"] if "error" in tag]
    assert len(tags) == 1
    assert [event.step for event in events.Images(tags[0])] == [4, 8, 12]


def test_a_resumed_run_shows_each_step_once(tmp_path):
    settings = settings_of(train=ALWAYS)
    stopped = training(tmp_path, ToyTask(), settings, stop=StopAfter(8))
    eager(stopped)
    assert fit(stopped, stopped.feed.train_batches(0)) == "interrupted"
    stopped.log.layers(LayerStats(99, []))  # as if killed after it had gone on for a while
    stopped.log.close()
    stopped.run.unlock()
    as_if_long_ago(stopped.run)
    rest = training(tmp_path, ToyTask(), settings, run=stopped.run)
    eager(rest)
    fit(rest, rest.feed.train_batches(rest.state.progress.step))
    rest.log.close()
    steps = Counter(line["step"] for line in layers_of(rest))
    assert set(steps) == {2, 4, 6, 8, 10, 12}
    assert set(steps.values()) == {1}
    scalars = events_of(rest)
    for tag in scalars.Tags()["scalars"]:
        counted = Counter(event.step for event in scalars.Scalars(tag))
        assert set(counted.values()) == {1}, tag


def test_times_add_up(tmp_path):
    t, _ = train(tmp_path, ToyTask(), settings_of())
    times = t.meter.times()
    assert list(times) == ["data", "forward", "backward", "optimizer", "evaluation", "other"]
    assert all(seconds >= 0 for seconds in times.values())
    assert times["forward"] > 0
    assert times["evaluation"] > 0


def test_the_log_knows_memory(tmp_path):
    t, _ = train(tmp_path, ToyTask(), settings_of())
    lines = [json.loads(line) for line in t.log.path.read_text().splitlines()]
    assert all(line["memory_mb"] > 10 for line in lines if line["split"] == "train")


def test_overflow_is_written_down_with_its_layer(tmp_path):
    settings = settings_of(train={"precision": "fp16", "epochs": 1, **ALWAYS})
    task = ToyTask()
    task.targets = task.targets * 300  # gradients pass the largest fp16 number once scaled by 65536
    t, _ = train(tmp_path, task, settings)
    assert t.state.progress.skipped > 0
    notes = [text for line in layers_of(t) for text in line["notes"]]
    assert any(text.startswith("fp16 gradients overflowed in ") for text in notes)


def test_concluding_leaves_an_evaluation_and_pictures(tmp_path):
    t = training(tmp_path, ToyTask(), settings_of(train=ALWAYS))
    t.identity = {"config": {"train": {"epochs": 3}}, "facts": t.task.facts, "versions": {}}
    fit(t, t.feed.train_batches(0))
    scores = conclude(t)
    t.log.close()
    assert set(scores) == {"train", "val"}
    evaluation = json.loads((t.run.path / "evaluation-val.json").read_text())
    assert evaluation["metrics"] == pytest.approx(scores["val"])
    assert evaluation["residuals"]
    assert (t.run.path / "pictures" / "val-error.png").exists()
    assert not (t.run.path / "evaluation-train.json").exists()
