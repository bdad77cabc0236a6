"""Every benchmark runs, with sizes that take seconds, and says first of all on what machine; the page shows results."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.reliability.soak import LONG

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
everything, rounds = import_module("everything"), import_module("rounds")

TOGETHER = {
    "loader_in_ram": ["--images", "300", "--rounds", "1"],
    "layout": ["--rounds", "1", "--steps", "1", "--only", "cnn-digits"],
    "nms": ["--boxes", "50", "--rounds", "1"],
    "region_align": ["--images", "1", "--rounds", "1", "--only"],
    "checkpoint": ["--rounds", "1", "--model", "squeezenet1_1", "--folder", "{tmp}"],
    "loader_folders": ["--rounds", "1", "--seconds", "0.1", "--small", "200", "--large", "50"],
    "detection_training": ["--size", "32", "--batch", "2", "--steps", "1", "--rounds", "1", "--threads", "1"],
    "shards": ["--quick"],
    "gpu": ["--tiny", "--sections", "probe", "promises", "trainers", "caches", "memory", "--output", "{tmp}/gpu.md"],
}
"""In one process, for importing torch takes longer than they do."""
ALONE = {
    "startup": ["--rounds", "1", "--warm-ups", "0"],
    "trainer_overhead": ["--steps", "14", "--rounds", "1", "--only", "mlcli"],
    "several_processes": ["--quick"],
    "tensorboard_cost": ["--epochs", "1", "--rounds", "1", "--models", "mlp 64-128-10"],
    "scaling": ["--largest", "1000", "--seconds", "0.05", "--rounds", "1", "--batches", "16", "--picture",
                "{tmp}/s.png"],
    "detection_minutes": ["--seconds", "1", "--only", "yolo", "--rows", "{tmp}/rows.jsonl", "--picture", "{tmp}/m.png",
                          "--set", "data.images=20", "data.image_size=64", "train.batch_size=4"],
}  # fmt: skip
"""These start processes of their own."""
LONGEST = {
    "detection_minutes",
    "detection_training",
    "loader_folders",
    "shards",
    "startup",
    "trainer_overhead",
    "several_processes",
    "tensorboard_cost",
    "scaling",
}
"""Of half a minute; but for the long run it is enough that what they import is there."""
SEVERAL = """
import runpy, sys
for script, *arguments in {scripts!r}:
    sys.argv = [script, *arguments]
    print("script", script, flush=True)
    runpy.run_path(script, run_name="__main__")
"""
MACHINE = re.compile(r"\d{4}-\d\d-\d\d, .+, \d+ CPUs, load \d.*torch \d")


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def judge(output: str) -> None:
    first, *rest = output.strip().splitlines()
    assert MACHINE.match(first), first
    assert "Traceback" not in output, output  # the GPU script goes on after a section that failed
    figures = [line for line in rest if re.search(r"\d", line)]
    assert figures
    assert not any(re.search(r"\bnan\b|\binf\b", line) for line in figures)


def arguments_of(arguments: list[str], folder: Path) -> list[str]:
    return [argument.format(tmp=folder) for argument in arguments]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("benchmarks")
    scripts = [
        [str(BENCHMARKS / f"{name}.py"), *arguments_of(arguments, folder)]
        for name, arguments in TOGETHER.items()
        if LONG or name not in LONGEST
    ]
    parts = re.split(r"^script (.*)\n", run(["-c", SEVERAL.format(scripts=scripts)], folder), flags=re.MULTILINE)[1:]
    return {Path(script).stem: output for script, output in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("name", TOGETHER)
def test_it_runs(name, outputs):
    if name in LONGEST and not LONG:
        import_module(name)
        return
    judge(outputs[name])


@pytest.mark.parametrize("name", ALONE)
def test_it_runs_alone(name, tmp_path):
    if name in LONGEST and not LONG:
        import_module(name)
        return
    judge(run([str(BENCHMARKS / f"{name}.py"), *arguments_of(ALONE[name], tmp_path)], tmp_path))


def test_the_gpu_script_writes_row_by_row_and_keeps_to_its_limits(tmp_path, monkeypatch):
    gpu = import_module("gpu")
    seen = []

    def rows(_):
        """Three rows, of which the second takes the time of the section."""
        yield ["what", "figure"]
        yield ["first", "1"]
        seen.append(json.loads((tmp_path / "x.json").read_text())["sections"]["three"]["rows"])
        clock.append(60.0)
        yield ["second", "2"]
        yield ["third", "3"]

    def fails(_):
        """Nothing."""
        yield ["what"]
        raise ValueError("on purpose")

    clock = [0.0]
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock[-1])
    monkeypatch.setitem(gpu.SECTIONS, "three", (rows, 50))
    monkeypatch.setitem(gpu.SECTIONS, "fails", (fails, 50))
    page, bench = gpu.Page(tmp_path / "x.md", "a machine"), SimpleNamespace(tiny=False)
    for name, left_s in (("three", 1000), ("fails", 1000), ("probe", -1)):
        gpu.measure(bench, page, name, left_s)
    told = json.loads((tmp_path / "x.json").read_text())["sections"]
    assert seen == [[["first", "1"]]]
    assert told["three"]["rows"] == [["first", "1"], ["second", "2"]]
    assert told["three"]["note"] == "cut short after 60 s"
    assert "ValueError: on purpose" in told["fails"]["note"]
    assert (told["probe"]["head"], told["probe"]["note"]) == ([], "left out: no time was left")
    assert "| second | 2 |" in (tmp_path / "x.md").read_text()
    assert sum(cap_s for name, (_, cap_s) in gpu.SECTIONS.items() if name not in ("three", "fails")) <= 480


ROW = {"data": "scenes", "name": "yolo", "seconds": 240.0, "seed": 0, "machine": "2026-11-28, X", "epochs": 9,
       "cpu_s": 239.6, "best_epoch": 8, "val": 0.7, "map": 0.7125, "map50": 0.95, "ms": 12.34,
       "parameters": 1234567}  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "seconds", "epochs", "every"),
    [
        ((10, 0.5, 1, 20), 120, 10, 1),  # (120 - 10) / (10 + 1)
        ((10, 0.5, 1, 20), 230, 21, 3),  # ten evaluations at most: (230 - 10 - 10) / 10
        ((10, 0.5, 30, 20), 120, 8, 8),  # one takes more than its share: it is the only one, (120 - 10 - 30) / 10
        ((10, 9.0, 1, 20), 120, 1, 1),
        ((200, 0.5, 0, 20), 120, 1, 1),
    ],
)
def test_a_training_is_as_long_as_its_time(costs, seconds, epochs, every):
    shared = import_module("detection_trials")
    assert shared.length(shared.Costs(*costs), seconds) == shared.Length(epochs, every)


def test_detection_minutes_goes_on_after_a_stop_and_shows_what_it_has(tmp_path, monkeypatch, capsys):
    minutes, path = import_module("detection_minutes"), tmp_path / "rows.jsonl"
    measured = []

    def measure(trial):
        measured.append(trial.name)
        if trial.name == "ssd":
            raise SystemExit("on purpose")
        return {**ROW, "name": trial.name, "seconds": trial.seconds, "map": 0.5 + 0.1 * len(trial.name) / 10}

    monkeypatch.setattr(minutes, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["x", "--only", "yolo", "ssd", "--rows", str(path)])
    with pytest.raises(SystemExit, match="on purpose"):
        minutes.main()
    path.write_text(path.read_text() + '\n{"data": "scenes", "na')  # a line that was cut
    monkeypatch.setattr(minutes, "measure", lambda trial: measured.append(trial.name) or {**ROW, "name": trial.name})
    minutes.main()
    assert measured == ["yolo", "ssd", "ssd"]
    assert {row["name"] for row in minutes.read_rows([path, tmp_path / "none"])} == {"yolo", "ssd"}
    judge(capsys.readouterr().out.replace("2026-11-28, X", minutes.machine_line()))
    monkeypatch.setattr(sys, "argv", ["x", "--show", "--rows", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit, match="nothing is measured"):
        minutes.main()
    assert measured == ["yolo", "ssd", "ssd"]


def test_longer_trainings_are_of_one_stage_and_photographs_where_there_are_any(monkeypatch, tmp_path):
    minutes, shared = import_module("detection_minutes"), import_module("detection_trials")
    asked = {"seconds": [240.0, 480.0], "only": None, "seed": 1, "raccoon": None, "cells": None, "weights": None,
             "set": ["a=1"], "photo_seconds": 600.0}  # fmt: skip
    found = minutes.trials(SimpleNamespace(**asked))
    assert len(found) == len({trial.key for trial in found}) == 16
    assert [trial.name for trial in found if trial.seconds == 480] == list(minutes.ONE_STAGE)
    assert {trial.seed for trial in found} == {1}
    assert {trial.overrides for trial in found} == {("a=1",)}
    asked |= {"only": ["ssd"], "raccoon": tmp_path, "cells": tmp_path, "weights": tmp_path / "w", "set": []}
    found = minutes.trials(SimpleNamespace(**asked))
    assert [(trial.data, trial.seconds) for trial in found] == [
        ("scenes", 240), ("scenes", 480), ("raccoon", 600), ("cells", 600)
    ]  # fmt: skip
    assert shared.experiment(found[-1]).config.model.name == "ssd"  # in the config of yolo
    asked |= {"seconds": [], "only": None}
    found = minutes.trials(SimpleNamespace(**asked))
    assert {trial.data for trial in found} == {"raccoon", "cells"}
    for trial in found:
        if trial.name in minutes.PEERS:
            continue
        config = shared.experiment(trial).config
        assert str(config.data.root) == str(tmp_path)
        assert (config.train.threads, config.loader.workers, config.train.measure_train) == (1, 0, 0)
        assert (config.finetune is not None) == trial.name.endswith(shared.FROM_WEIGHTS)


def test_what_detection_minutes_shows(tmp_path, monkeypatch):
    from mlcli.show import figure
    from tests.conftest import drawn

    monkeypatch.setattr(figure, "image_of", drawn)
    shown = import_module("detection_rows")
    rows = [ROW, {**ROW, "name": "fcos", "map": 0.75, "ms": 30.0}, {**ROW, "name": "ssd", "map": 0.6, "ms": 20.0},
            {**ROW, "data": "raccoon"}, {**ROW, "seconds": 480.0, "map": 0.8}, {**ROW, "seed": 1}]  # fmt: skip
    first, longer, raccoon = shown.sections(rows)
    assert first.startswith("scenes, 240 CPU seconds of training (2026-11-28)\n\n| detector |")
    assert [line.split(" | ")[0] for line in first.splitlines()[4:]] == ["| fcos", "| yolo", "| yolo, seed 1", "| ssd"]
    assert "| yolo | 240 | 8 of 9 | 0.713 | 0.950 | 12.3 | 1,234,567 |" in first.replace("0.712 |", "0.713 |")
    assert "480" in longer
    assert "raccoon" in raccoon
    assert [row["name"] for row in shown.frontier(rows[:3], lambda row: row["ms"])] == ["yolo", "fcos"]
    shown.draw(rows, tmp_path / "m.png", ["ssd"])
    assert (tmp_path / "m.png").stat().st_size > 10_000


def test_all_of_them_are_tried_here_and_run_by_make_bench():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()} - {"everything"}
    by_bench = {script.name for script in everything.SCRIPTS}
    assert {"startup", "gpu", "scaling"} <= scripts & by_bench
    assert by_bench <= {*TOGETHER, *ALONE}
    assert scripts - {"detection_models"} <= by_bench


def test_the_page_shows_the_results():
    page, results = (ROOT / "docs/performance.md").read_text(), (BENCHMARKS / "results.md").read_text()
    assert everything.put_between(page, everything.on_page(results)) == page
    of_detectors = (ROOT / "docs/detection.md").read_text()
    shown = everything.on_detection_page(results)
    assert "| yolo |" in shown
    assert everything.put_between(of_detectors, shown, everything.BEGIN_DETECTION) == of_detectors
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (ROOT / "docs" / picture).exists()


def test_a_section_takes_the_place_of_the_one_before():
    old = "# Results\n\n## a.py: one (--rounds 1)\n\nold\n\n## b.py: two\n\nkept\n"
    sections = everything.sections_of(old)
    assert list(sections) == ["a.py --rounds 1", "b.py"]
    assert sections["b.py"] == "## b.py: two\n\nkept\n"
    script = everything.Script("startup", ("--rounds", "2"))
    made = everything.section(script, "| a |\n| --- |\n| 1 |\n")
    assert everything.sections_of(made) == {"startup.py --rounds 2": made}
    assert "```" not in made
    assert "```\nplain\n```" in everything.section(script, "plain\n")


def test_rounds_alternate():
    order: list[str] = []
    found = rounds.alternate({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 2)
    assert "".join(order) == "abccba"
    assert found == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def test_spread_and_table():
    assert rounds.spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 - 3.0)"
    assert rounds.table(("a", "b"), [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


@pytest.mark.parametrize("name", ["pytorch-ignite", "accelerate", "transformers", "Lightning", "fastai"])
def test_other_trainers_do_the_same_work(name, tmp_path):
    """The same weights as the loop by hand, bit for bit or nearly; their extra is not installed everywhere."""
    import torch
    from trainer_peers import PEERS, Batches, Job, by_hand

    package, loop = PEERS[name]
    pytest.importorskip(package)

    def trained(by) -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        inputs, labels = torch.randn(20, 16, 8, generator=random), torch.randint(4, (20, 16), generator=random)
        model = torch.nn.Linear(8, 4)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        by(Job(model, Batches(lambda: zip(inputs, labels, strict=True), 20), 0.1, False, str(tmp_path)))
        return model.weight.detach()

    expected = trained(by_hand)
    assert expected.abs().sum() > 0.1
    torch.testing.assert_close(trained(loop), expected)
