"""A run as one file: verified beside its model, and asked without torch with the same answers."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from mlcli import load
from mlcli.commands import export as export_command
from mlcli.data.resize import resize
from mlcli.errors import CheckpointError, ConfigError
from mlcli.export import run as export_run
from mlcli.export.file import open_exported
from tests.export.conftest import YAML

DETECTOR = """
task: detection
data: {name: scenes, images: 20, image_size: 64}
model: {name: yolo, width: 4, score_threshold: 0.0001, max_detections: 20}
train: {epochs: 1, batch_size: 10, device: cpu, threads: 1, baselines: false}
"""
PREDICT = """
import sys
from mlcli.cli import main
sys.argv = ["mlcli", "predict", *sys.argv[1:]]
try: main()
except SystemExit: pass
print("loaded", *sorted({"torch", "torchvision", "scipy", "sklearn", "onnx", "pandas"} & set(sys.modules)))
"""


@pytest.fixture
def trained(folder, mlcli, tmp_path) -> Path:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_onnx_answers_as_the_run_does_without_torch(trained, mlcli):
    typed = mlcli("export", "d", "-o", "d.onnx")
    assert typed.code == 0, typed.err
    assert "64 samples of val" in typed.out
    assert "64 of 64" in typed.out
    generator = np.random.default_rng(0)
    (trained / "photos").mkdir()
    for number in range(3):
        pixels = generator.integers(0, 256, (30 + 9 * number, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(trained / f"photos/{number}.png")
    assert mlcli("predict", "d", "photos", "-o", "run.jsonl").code == 0
    command = [sys.executable, "-c", PREDICT, "d.onnx", "photos", "-o", "file.jsonl"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=trained)
    assert said.stdout.splitlines()[-1] == "loaded", said.stdout + said.stderr
    ours, theirs = ([json.loads(line) for line in (trained / name).open()] for name in ("run.jsonl", "file.jsonl"))
    assert [one["label"] for one in ours] == [one["label"] for one in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert other["probabilities"] == pytest.approx(mine["probabilities"], abs=2e-6)
    proto = onnx.load(trained / "d.onnx")
    entry = next(one for one in proto.metadata_props if one.key == "mlcli")
    entry.value = entry.value.replace('"0","1"', '"1"')
    onnx.save(proto, trained / "forged.onnx")
    with pytest.raises(CheckpointError, match="cannot be used"):
        open_exported(trained / "forged.onnx").predict(np.zeros((1, 1, 8, 8), np.uint8))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["task"], "detection", "max_detections: None is no number of objects"),
        (["task"], "dreams", "no task 'dreams' answers"),
        (["epoch"], "last", "epoch: Input should be a valid integer"),
        (["batch"], 7, "samples at once, and its metadata say 7"),
        (["answers", "data", "input_shape"], [1, 16, 16], "image_size is not that of input_shape"),
        (["answers", "data", "kind"], "features", r"takes inputs: tensor\(uint8\)"),
        (["answers", "data", "class_names"], ["a", "b"], "is .*, not .*2"),
    ],
)
def test_forged_metadata_are_refused(path, value, said, folder, tmp_path):
    proto = onnx.load(folder / "d.onnx")
    entry = next(one for one in proto.metadata_props if one.key == "mlcli")
    facts = json.loads(entry.value)
    place = facts
    for key in path[:-1]:
        place = place[key]
    assert place[path[-1]] != value
    place[path[-1]] = value
    entry.value = json.dumps(facts)
    onnx.save(proto, tmp_path / "forged.onnx")
    with pytest.raises(CheckpointError, match=rf"(?s)cannot be used.*({said})"):
        open_exported(tmp_path / "forged.onnx").predict(np.zeros((1, 1, 8, 8), np.uint8))


def scores(typed) -> dict:
    assert typed.code == 0, typed.err
    return json.loads(typed.out)["metrics"]


def test_a_file_has_the_scores_of_its_run(trained, mlcli):
    for split in ("val", "test"):
        ours = scores(mlcli("evaluate", "d", "--split", split, "--json"))
        theirs = scores(mlcli("evaluate", "d.onnx", "d.yaml", "--split", split, "--json"))
        assert theirs == pytest.approx({name: value for name, value in ours.items() if name != "loss"}, abs=1e-4)
        assert len(theirs) > 3
    assert "test, " in mlcli("evaluate", "d.onnx", "d.yaml").out
    (trained / "i.yaml").write_text(YAML.replace("digits", "iris"))
    for words, code, said in [
        (["d.onnx"], 2, "which YAML?"),
        (["d.onnx", "d.yaml", "--on", "d.yaml"], 2, "measured on the data of a YAML"),
        (["d.onnx", "i.yaml"], 5, "the model knows 10 classes, the data have 3"),
        (["d.onnx", "d.yaml", "model={name: linear}"], 5, "d.onnx is of model mlp, the YAML of linear"),
        (["d.onnx", "d.yaml", "--split", "new"], 2, "'new' is no split"),
    ]:
        typed = mlcli("evaluate", *words)
        assert (typed.code, said in typed.err) == (code, True), typed.err


def test_a_regression_has_the_scores_of_its_run_in_units_of_its_target(mlcli, tmp_path):
    text = (
        YAML.replace("classification", "regression")
        .replace("digits", "diabetes")
        .replace("[8]", "[4], batch_norm: true")
    )
    (tmp_path / "r.yaml").write_text(text)
    assert mlcli("train", "r.yaml").code == 0
    assert mlcli("export", "r", "-o", "r.onnx").code == 0
    ours = scores(mlcli("evaluate", "r", "--json"))
    theirs = scores(mlcli("evaluate", "r.onnx", "r.yaml", "--json"))
    assert theirs == pytest.approx({name: value for name, value in ours.items() if name != "loss"}, rel=1e-4)
    assert theirs["rmse"] > 10


def test_a_detector_through_the_whole_command(mlcli, tmp_path):
    (tmp_path / "s.yaml").write_text(DETECTOR)
    assert mlcli("train", "s.yaml").code == 0
    typed = mlcli("export", "s", "-o", "s.onnx")
    assert typed.code == 0, typed.out + typed.err
    ours, theirs = (
        scores(mlcli("evaluate", *words, "--split", "val", "--json")) for words in (["s"], ["s.onnx", "s.yaml"])
    )
    assert theirs == pytest.approx({name: value for name, value in ours.items() if name in theirs}, abs=1e-4)
    assert "map50" in theirs
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos/a.png")
    records = []
    for model in ("s", "s.onnx"):
        assert mlcli("predict", model, "photos", "--threshold", "0", "-o", f"{model}.jsonl").code == 0
        records.append(json.loads((tmp_path / f"{model}.jsonl").read_text())["objects"])
    compared(*records)
    tiles = ["--tiles", "40", "--overlap", "0.5"]
    for model in ("s", "s.onnx"):
        assert mlcli("predict", model, "photos", "--threshold", "0", "-o", f"{model}.jsonl", *tiles).code == 0
    compared(*(json.loads((tmp_path / f"{model}.jsonl").read_text())["objects"] for model in ("s", "s.onnx")))
    ours, theirs = (scores(mlcli("evaluate", *words, "--json", *tiles)) for words in (["s"], ["s.onnx", "s.yaml"]))
    assert theirs == pytest.approx(ours, abs=1e-3)


def compared(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["label"] == other["label"]
        assert other["bbox"] == pytest.approx(mine["bbox"], abs=0.02)


def test_half_the_precision_from_python(trained, mlcli, monkeypatch):
    run = load("d")
    half = run.export("onnx", "half.onnx", precision="fp16")
    assert half.path == Path("half.onnx")
    assert half.size_bytes == half.path.stat().st_size
    assert half.verified.passed
    assert "64 samples of val" in half.verified.on
    assert "cosine" in str(half)
    opened = open_exported(trained / "half.onnx")
    assert opened.facts.precision == "fp16"
    kinds = {tensor.data_type for tensor in onnx.load(trained / "half.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    inputs = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), dtype=np.uint8)
    (theirs,) = opened.outputs(inputs)
    with torch.no_grad():
        ours = run.model(torch.from_numpy(inputs)).softmax(dim=1).numpy()
    assert theirs.dtype == np.float32
    assert not np.array_equal(ours, theirs)
    assert theirs == pytest.approx(ours, abs=0.01)
    typed = mlcli("evaluate", "half.onnx", "d.yaml", "--json")
    assert json.loads(typed.out)["precision"] == "fp16"
    below = replace(half, verified=replace(half.verified, passed=False))
    monkeypatch.setattr(export_command, "export", lambda *positional, **named: below)
    with pytest.raises(CheckpointError, match="below the bar"):
        run.export()


def test_python_is_told_what_cannot_be_asked(trained):
    with pytest.raises(ConfigError, match="'0' is no number"):
        load("d").export(batch=0)


def test_what_is_below_the_bar_is_kept_under_another_name(trained, mlcli, monkeypatch):
    real = export_run.load_pt2
    monkeypatch.setattr(export_run, "load_pt2", lambda content: lambda inputs: (real(content)(inputs)[0].flip(1),))
    typed = mlcli("export", "d", "--to", "pt2", "-o", "d.pt2", "--batch", "5")
    assert typed.code == 5
    assert not (trained / "d.pt2").exists()
    assert (trained / "d.unverified.pt2").exists()
    assert "below the bar" in typed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "tflite"], "'tflite' is no format"),
        (["--batch", "0"], "'0' is no number of samples"),
        (["--to", "pt2", "--opset", "18"], "only ONNX has an opset"),
        (["--to", "pt2", "--precision", "fp16"], "only ONNX is written in fp16"),
        (["--precision", "int8"], "'int8' is no precision"),
    ],
)
def test_what_cannot_be_asked(words, said, mlcli):
    typed = mlcli("export", "d", *words)
    assert typed.code == 2
    assert said in typed.err


def test_resizing_gives_the_same_bits_without_torch(monkeypatch):
    generator = np.random.default_rng(1)
    for _ in range(60):
        tall, wide, height, width = generator.integers(1, 90, 4)
        pixels = generator.integers(0, 256, (tall, wide, 3), dtype=np.uint8)
        box = (0.0, 0.0, max(0.6, wide - generator.random()), float(tall))
        with_torch, without = (np.zeros((3, height, width), np.uint8) for _ in range(2))
        resize(pixels, box, with_torch)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "torch")
            resize(pixels, box, without)
        assert np.array_equal(with_torch, without)
    assert torch is sys.modules["torch"]
