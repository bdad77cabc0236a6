"""A run as one file: verified beside its model, and asked without torch with the same answers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from mlcli.data import decode
from mlcli.errors import CheckpointError
from mlcli.export import run as export_run
from mlcli.export.file import open_exported

YAML = """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [8]}
train: {epochs: 1, device: cpu, threads: 1, baselines: false}
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
def trained(mlcli, tmp_path) -> Path:
    (tmp_path / "d.yaml").write_text(YAML)
    assert mlcli("train", "d.yaml").code == 0
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
        decode.resize(pixels, box, with_torch)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "torch")
            decode.resize(pixels, box, without)
        assert np.array_equal(with_torch, without)
    assert torch is sys.modules["torch"]
