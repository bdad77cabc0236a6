"""The last screen of a run: what it says, and that it stays one calm screen."""

from pathlib import Path

import pytest

from mlcli.report.record import Record
from mlcli.report.summary import (
    _confused_lines,
    _file_lines,
    _next_lines,
    command_for,
    layer_troubles,
    memory_lines,
    results,
    score_table,
    time_lines,
    wait_share,
)
from mlcli.text import screen_width
from tests.report import crafted


@pytest.fixture
def record(tmp_path, monkeypatch) -> Record:
    monkeypatch.chdir(tmp_path)
    return Record.read(crafted.classifier(tmp_path / "runs", ["cat", "dog", "a bird of a very long name indeed"]))


def test_the_score_stands_beside_the_baselines(record):
    lines = score_table(record, record.scores).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["train", "val", "test"]
    assert lines[4] == "test, for comparison"
    assert lines[5].split() == ["random", "forest", "-", "0.6200", "on", "4,000", "of", "50,000", "rows"]
    assert lines[6].split() == ["most", "frequent", "class", "-", "0.1000"]


@pytest.mark.parametrize("columns", [80, 120])
def test_everything_is_one_calm_screen(record, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = results(record, record.scores)
    lines = screen.splitlines()
    assert len(lines) <= 27  # 32 with what stands above and below
    assert max(map(len, lines)) <= screen_width()
    labels = [line.split()[0] for line in lines[lines.index("") + 1 :] if not line.startswith(" ")]
    assert labels == ["verdict", "confused", "layers", "time", "files", "next"]
    assert "overfitting: training 93.0 %, validation 80.0 % accuracy; gap 13.0 ± 4.0 points" in " ".join(screen.split())
    assert "vanishing gradients in net.conv1 at step 120" in screen
    assert "next      mlcli train made.yaml 'augment=[{name: random_crop, padding: 2}]'" in screen


def test_metrics_that_do_not_fit_are_left_out_but_for_the_watched(record):
    scores = {"val": {f"a_rather_long_metric_{i}": 0.5 for i in range(9)} | {"accuracy": 0.9}}
    table = score_table(record, scores)
    assert max(map(len, table.splitlines())) <= screen_width()
    assert "accuracy" in table
    assert "a rather long metric 0" in table
    assert "a rather long metric 8" not in table


def test_confused_pairs_and_files_and_commands(record):
    (first, *more) = _confused_lines(record)
    assert first.startswith("confused  ")
    assert " -> " in first
    assert max(map(len, [first, *more])) <= screen_width()
    assert _file_lines(record)[0] == "files     runs/classifier/20260102-030405-abcd/"
    assert _next_lines(record, None) == [
        "next      mlcli evaluate classifier/20260102-030405-abcd --split test",
        "          mlcli predict classifier/20260102-030405-abcd FILES",
        "          tensorboard --logdir runs",
    ]


def test_the_time_is_a_bar_whose_parts_add_up():
    bar, legend = time_lines({"data": 1.0, "forward": 2.0, "backward": 5.0, "other": 2.0})
    assert len(bar) == 10 + 60
    assert [bar.count(mark) for mark in dict.fromkeys(bar[10:])] == [6, 12, 30, 12]
    assert [part.split()[1:] for part in legend.strip().split("  ")] == [
        ["data", "10%"], ["forward", "20%"], ["backward", "50%"], ["other", "20%"]]  # fmt: skip
    marks = [part.split()[0] for part in time_lines(dict.fromkeys("abcdef", 1.0))[1].strip().split("  ")]
    assert len(set(marks)) == 6
    assert time_lines(None) == time_lines({}) == time_lines({"data": 0.0}) == []


def test_memory_is_shown_by_phase():
    (line,) = memory_lines({"training": 1512.3, "evaluation": 640.0}, {"device": "cpu (2 threads): no GPU"})
    assert line == "memory    training 1,512 MB · evaluation 640 MB, held by the process"
    assert memory_lines({"training": 1.0}, {"device": "cuda:0 (H100)"})[0].endswith("held on the GPU")
    assert memory_lines(None, None) == memory_lines({}, {}) == []


def test_a_trouble_of_a_layer_is_told_once_where_it_was_last():
    looks = [
        {"step": 10, "layers": [], "notes": ["dead layer b (100%)"]},
        {"step": 20, "layers": [], "notes": ["exploding gradients in a (norm 5e3)", "dead layer b (99%)"]},
        {"step": 30, "layers": [], "notes": ["exploding gradients in a (norm 9e3)"]},
        {"step": 40, "layers": [], "notes": []},
    ]
    assert layer_troubles(looks) == [
        "dead layer b (99%) at step 20",
        "exploding gradients in a (norm 9e3) at step 30",
    ]


def test_the_next_command_is_what_was_typed_and_a_change(record):
    assert command_for(record, "train.epochs=40") == "mlcli train made.yaml train.epochs=40"
    assert command_for(record, "mlcli lr-find") == "mlcli lr-find made.yaml"
    record.environment["arguments"] = ["train", "--resume", "x"]
    where = Path("runs/classifier/20260102-030405-abcd/resolved.yaml")
    assert command_for(record, "a=1") == f"mlcli train {where} --name classifier a=1"


def test_the_share_of_waiting_is_weighed_by_time():
    entries = [
        {"split": "train", "step": 10, "samples_per_s": 10.0, "wait_share": 0.5},
        {"split": "val", "step": 10},
        {"split": "train", "step": 20, "samples_per_s": 30.0, "wait_share": 0.1},
    ]
    assert wait_share(entries, 1) == pytest.approx((1 * 0.5 + 10 / 30 * 0.1) / (1 + 10 / 30))
    assert wait_share([], 1) == 0
