"""When `train.compile: auto` compiles, and that the command then trains what was compiled."""

import json

import pytest
import torch

from mlcli.commands import train
from mlcli.engine import launch
from mlcli.engine.runtime import COMPILE_S, MARGIN, SAVED, Choice, Runtime, decide_compile
from mlcli.tasks.detection.build import build_task
from mlcli.tasks.detection.config import Detection

WORTH_IT_S = MARGIN * COMPILE_S / SAVED  # ten minutes of training


def runtime_on(device: str) -> Runtime:
    return Runtime(torch.device(device), "fp32", 0, 1, False, False, ())


def test_on_a_gpu_it_depends_on_how_long_the_training_takes():
    assert decide_compile(runtime_on("cuda"), 1.01 * WORTH_IT_S, is_static=True).value == "yes"
    short = decide_compile(runtime_on("cuda"), 0.99 * WORTH_IT_S, is_static=True)
    assert short == Choice("compile", "no", "compiling takes about 60 s and may save 89 s of this training")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_it_never_pays(device):
    assert decide_compile(runtime_on(device), 1e9, is_static=True).value == "no"


def test_not_where_results_must_not_depend_on_the_clock():
    torch.use_deterministic_algorithms(True)
    try:
        choice = decide_compile(runtime_on("cuda"), 1e9, is_static=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert choice.value == "no"
    assert "train.deterministic" in choice.why


@pytest.mark.parametrize(("model", "is_static"), [("yolo", True), ("ssd", True), ("faster_rcnn", False)])
def test_not_where_shapes_depend_on_the_data(model, is_static):
    data = {"name": "scenes", "images": 20}
    config = {"task": "detection", "data": data, "model": {"name": model}}
    task = build_task(Detection.model_validate(config))
    assert (
        (decide_compile(runtime_on("cuda"), 1e9, is_static=task.is_static).value == "yes")
        == task.is_static
        == is_static
    )


@pytest.mark.parametrize(("asked", "decided", "compiled"), [
    ("auto", "yes", 1), ("auto", "no", 0), ("true", "no", 1), ("false", "yes", 0),
])  # fmt: skip
def test_the_command_trains_what_was_decided(tmp_path, monkeypatch, capsys, asked, decided, compiled):
    models = []
    monkeypatch.setattr(torch, "compile", lambda model: models.append(model) or model)
    monkeypatch.setattr(launch, "decide_compile", lambda *_, **__: Choice("compile", decided, "said so"))
    config = tmp_path / "x.yaml"
    config.write_text("task: classification\ndata: {name: digits}\nmodel: {name: mlp, hidden: [4]}\n")
    overrides = [f"train.compile={asked}", "train.epochs=1", "train.baselines=false", "train.device=cpu"]
    train.run(config, overrides, name="x", resume=None, root=tmp_path / "runs")
    assert len(models) == compiled
    assert (f"compile    {decided}: said so" in capsys.readouterr().out) == (asked == "auto")
    (run,) = (tmp_path / "runs" / "x").iterdir()
    kept = json.loads((run / "environment.json").read_text())["choices"]
    assert kept.get("compile") == (f"{decided}: said so" if asked == "auto" else None)
