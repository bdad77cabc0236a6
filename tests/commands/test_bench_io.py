"""`mlcli bench-io` as it is typed: the page, the JSON, the files, the YAML and the exit codes."""

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from mlcli import cli
from mlcli.commands import bench_io, runs
from mlcli.engine import limits
from mlcli.experiment import Experiment
from mlcli.machine.bench import bottleneck
from mlcli.machine.bench.bottleneck import ThroughputVerdict
from mlcli.report.summary import wait_share
from tests.machine.slow import write_images

YAML = """# my photographs
task: classification
data: {name: folder, root: images, image_size: 8}   # small ones
augment:
  - {name: horizontal_flip}
model: {name: linear}

loader:
  # read anew each time
  cache: none
  workers: 2
train: {batch_size: 8, device: cpu, threads: 1}
"""
TABLE = """
task: regression
data: {name: diabetes}
model: {name: linear}
train: {batch_size: 32, device: cpu, threads: 1}
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench_io, "QUICK_S", 1.0)


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "images", per_class=20)
    path = tmp_path / "photos.yaml"
    path.write_text(YAML)
    return path


def test_the_page_and_the_files(photos, mlcli, tmp_path):
    typed = mlcli("bench-io", "photos.yaml", "--quick", "--full")
    assert typed.code == 0, typed.err
    for head in ("data", "machine", "stage", "loader", "model", "epoch", "scan", "cache", "VERDICT", "saved"):
        assert re.search(rf"^{head}\b", typed.out, re.MULTILINE), head
    assert "2 workers *" in typed.out
    (folder,) = (tmp_path / "runs" / "bench-io").glob("[!.]*")
    assert f"runs/bench-io/{folder.name}/report.json" in typed.out
    report = json.loads((folder / "report.json").read_text())
    assert report["config"] == "photos.yaml"
    assert report["verdict"]["ratio"] > 0
    picture = (folder / "plot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">2I", picture[16:24])
    assert width > 1.5 * height


def test_one_of_several_processes_has_its_share(mlcli, tmp_path, monkeypatch):
    (tmp_path / "table.yaml").write_text(TABLE)
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(limits, "_folders", lambda *_: iter(()))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    typed = mlcli("bench-io", "table.yaml", "train.threads=null", "train.batch_size=31", "--quick", "--devices", "3")
    assert typed.code == 0, typed.err
    assert "3; measured is what one of them gets: batches of up to 11, 2 usable CPUs, 2 threads" in " ".join(
        typed.out.split()
    )
    assert "WORLD_SIZE" not in os.environ
    too_many = mlcli("bench-io", "table.yaml", "train.batch_size=2", "--quick", "--devices", "3")
    assert too_many.code == 2
    assert "a batch of 2 is too small for 3 processes" in too_many.err


def test_it_is_no_run(photos, mlcli, tmp_path, capsys):
    mlcli("bench-io", "photos.yaml", "--quick")
    capsys.readouterr()
    runs.run_list(tmp_path / "runs")
    assert "no runs in" in capsys.readouterr().out


def test_json_and_a_floor_for_the_ratio(mlcli, tmp_path):
    (tmp_path / "table.yaml").write_text(TABLE)
    typed = mlcli("bench-io", "table.yaml", "train.batch_size=16", "--quick", "--json", "--fail-under", "1e9")
    assert typed.code == 1
    assert "less than the 1e+09x asked for" in typed.err
    report = json.loads(typed.out)
    assert report["batch_size"] == 16
    assert report["overrides"] == ["train.batch_size=16"]
    assert report["verdict"]["nothing_to_do"]
    assert {"stages", "loader", "held", "model", "together", "machine", "data", "advice"} <= set(report)


def test_apply_writes_what_the_verdict_says_and_nothing_else(photos, mlcli):
    typed = mlcli("bench-io", "photos.yaml", "--quick", "--apply", "--json", "--fail-under", "0")
    assert typed.code == 0
    verdict = json.loads(typed.out)["verdict"]
    expected = YAML
    if verdict["workers"] is not None:
        expected = expected.replace("workers: 2", f"workers: {verdict['workers']}")
    if verdict["cache"] is not None:
        expected = expected.replace("cache: none", f"cache: {verdict['cache']}")
    assert photos.read_text() == expected
    Experiment.load(photos)


def test_json_has_the_checks_of_memory(photos, mlcli):
    report = json.loads(mlcli("bench-io", "photos.yaml", "--quick", "--json").out)
    shm, ahead = report["checks"]
    assert (shm["name"], shm["status"], shm["needed_bytes"]) == ("/dev/shm", "ok", 0)
    advised = report["verdict"]["workers"]
    workers = 2 if advised is None else advised  # a busy machine may be better off with none
    assert ahead["needed_bytes"] == report["prefetch"] * 8 * 3 * 8 * 8 * workers


def test_the_hint_repeats_what_was_typed():
    verdict = ThroughputVerdict(0.5, 0.5, False, "", 4, None, 4, (), ())
    overrides = ["train.batch_size=16", "loader.workers=0", "data={name: folder, root: a b}"]
    ((_, hint),) = bench_io._hint(Path("photos.yaml"), overrides, None, verdict)
    assert hint.startswith("mlcli bench-io photos.yaml train.batch_size=16 'data={name: folder, root: a b}' --apply   ")
    ((_, of_one),) = bench_io._hint(Path("photos.yaml"), [], "2", verdict)
    assert of_one.startswith("mlcli bench-io photos.yaml --devices 2 --apply   ")
    assert "loader.workers: 4" in hint
    assert "workers=0" not in hint


def test_the_floor_is_held_against_what_is_shown(mlcli, tmp_path, monkeypatch):
    (tmp_path / "table.yaml").write_text(TABLE)
    real = bottleneck.find_bottleneck
    monkeypatch.setattr(bottleneck, "find_bottleneck", lambda findings: replace(real(findings), ratio=0.996))
    assert mlcli("bench-io", "table.yaml", "--quick", "--fail-under", "1").code == 0  # it says 1x
    assert mlcli("bench-io", "table.yaml", "--quick", "--fail-under", "1.01").code == 1


def test_starting_up_counts():
    assert 0 < bench_io.start_up_s() <= bench_io.MOST_START_S


def test_nothing_to_apply(mlcli, tmp_path):
    (tmp_path / "table.yaml").write_text(TABLE)
    typed = mlcli("bench-io", "table.yaml", "--quick", "--apply")
    assert typed.code == 0
    assert "nothing to write: table.yaml is unchanged" in typed.out
    assert (tmp_path / "table.yaml").read_text() == TABLE


def _empty(folder):
    for path in (folder / "images").rglob("*.jpg"):
        path.unlink()


def _one_image(folder):
    for path in sorted((folder / "images").rglob("*.jpg"))[1:]:
        path.unlink()


def _damaged(folder):
    path = sorted((folder / "images").rglob("*.jpg"))[17]
    path.write_bytes(path.read_bytes()[:200])


def _file_in_the_way(folder):
    (folder / "runs").write_text("a file where a folder should be")


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        pytest.param(_empty, 4, "error: ", id="empty"),
        pytest.param(_one_image, 4, "error: ", id="one image"),
        pytest.param(_damaged, 4, "cannot read image", id="a damaged file"),
        pytest.param(_file_in_the_way, 6, "the output path goes through a file", id="no place for the report"),
    ],
)
def test_bad_input(photos, mlcli, tmp_path, spoil, code, message):
    spoil(tmp_path)
    typed = mlcli("bench-io", "photos.yaml", "--quick")
    assert typed.code == code
    assert message in typed.err
    assert "Traceback" not in typed.err
    assert len(typed.err.splitlines()) <= 5
    assert not (tmp_path / "runs" / "bench-io").exists()


def test_no_space_for_the_report(photos, mlcli, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # what a full disk does, without filling one
    try:
        typed = mlcli("bench-io", "photos.yaml", "--quick")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert typed.code == 6
    assert "cannot write" in typed.err
    assert "VERDICT" in typed.out  # what was measured is not lost
    assert "saved" not in typed.out
    assert list((tmp_path / "runs" / "bench-io").glob("[!.]*")) == []


@pytest.mark.parametrize("override", ["loader.workers=1", "loader={cache: none}"])
def test_apply_judges_the_file_and_nothing_else(photos, mlcli, tmp_path, override):
    typed = mlcli("bench-io", "photos.yaml", override, "--quick", "--apply")
    assert typed.code == 2
    assert "with --apply, loader keys cannot be overridden: the advice is about the file" in typed.err
    assert photos.read_text() == YAML
    assert not (tmp_path / "runs" / "bench-io").exists()


def test_a_floor_does_not_pass_in_silence_on_a_busy_machine(mlcli, tmp_path, monkeypatch):
    (tmp_path / "table.yaml").write_text(TABLE)
    monkeypatch.setattr(bottleneck, "USELESS_SPREAD", -1.0)  # every machine is too busy
    typed = mlcli("bench-io", "table.yaml", "--quick", "--fail-under", "0")
    assert typed.code == 0
    assert "too busy for a reliable verdict; measure again" in typed.err


def test_the_start_is_taken_off_the_time_for_measuring():
    assert bench_io.time_left(8.0, spent_s=2.5) == pytest.approx(5.5)
    assert bench_io.time_left(8.0, spent_s=20.0) == bench_io.LEAST_S
    assert bench_io.time_left(1.0, spent_s=20.0) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "which YAML?", id="no YAML"),
        pytest.param(["none.yaml"], "there is no file", id="no such file"),
        pytest.param(["photos.yaml", "loader.wrokers=2"], "did you mean 'workers'", id="a typo"),
        pytest.param(["photos.yaml", "train.batch_size=500"], "batch_size 500 is more than", id="too large a batch"),
    ],
)
def test_usage(photos, mlcli, arguments, message):
    typed = mlcli("bench-io", *arguments, "--quick")
    assert typed.code == 2
    assert message in typed.err


def test_a_runs_own_yaml_is_not_changed(photos, mlcli, tmp_path):
    mlcli("train", "photos.yaml", "train.epochs=1")
    (run,) = (tmp_path / "runs" / "photos").iterdir()
    typed = mlcli("bench-io", run / "resolved.yaml", "--quick", "--apply")
    assert typed.code == 2
    assert "belongs to a run" in typed.err


def test_training_names_bench_io_when_it_waited(photos, mlcli, tmp_path):
    typed = mlcli("train", "photos.yaml", "train.epochs=20", "loader.workers=0")
    (run,) = (tmp_path / "runs" / "photos").iterdir()
    told = " ".join(typed.out.split())  # the page wraps
    assert re.search(r"\bwait \d+% of the training time was spent waiting for data; why: mlcli bench-io ", told)
    assert f"mlcli bench-io runs/photos/{run.name}/resolved.yaml" in typed.out


def test_the_share_of_waiting_over_windows_of_different_length():
    entries = [
        {"split": "train", "step": 10, "samples_per_s": 80.0, "wait_share": 0.5},  # 10 steps of 8 samples: 1 s
        {"split": "val", "step": 10, "loss": 1.0},
        {"split": "train", "step": 40, "samples_per_s": 80.0, "wait_share": 0.1},  # 3 s
    ]
    assert wait_share(entries, 8) == pytest.approx((0.5 * 1 + 0.1 * 3) / 4)
    assert wait_share([], 8) == 0


def test_the_first_screen_names_it():
    assert "mlcli bench-io config.yaml" in cli.FIRST_SCREEN
