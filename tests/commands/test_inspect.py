"""`mlcli inspect`, typed: the page, the JSON, the pictures, and that nothing is trained."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from mlcli.experiment import Experiment

YAMLS = {
    "digits": "{task: classification, data: {name: digits}, augment: [{name: random_crop, padding: 1}], "
    "model: {name: cnn, blocks: [{name: conv, channels: 6, kernel: 5}, {name: pool}, {name: linear, features: 20}]}, "
    "optimizer: {name: adamw}, train: {device: cpu, threads: 1}}",
    "linear": "{task: classification, data: {name: digits}, model: {name: mlp, hidden: [32], activation: none}, "
    "train: {device: cpu, threads: 1}}",
    "diabetes": "{task: regression, data: {name: diabetes}, model: {name: mlp}, train: {device: cpu, threads: 1}}",
    "tuned": "{task: classification, data: {name: folder, root: photos, image_size: 32}, "
    "model: {name: torchvision, arch: resnet18}, finetune: {freeze: ['conv1*', 'bn1*', 'layer*']}, "
    "train: {device: cpu, threads: 1, batch_size: 8}}",
}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal of 100 columns, whatever the tests run in."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def yaml(tmp_path):
    def write(name: str):
        (tmp_path / f"{name}.yaml").write_text(YAMLS[name])
        return f"{name}.yaml"

    return write


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")


def test_page_of_a_small_network(mlcli, yaml, tmp_path):
    typed = mlcli("inspect", yaml("digits"))
    assert typed.code == 0
    assert not typed.err
    page, commands = typed.out.split("next ")
    assert max(map(len, page.splitlines())) <= 100
    assert "mlcli train digits.yaml" in commands
    words = " ".join(page.split())
    assert "conv relu 5x5 1 2 1 6x8x8 384 156 " in words
    assert "adamw state" in words
    assert "ln C = ln 10 = 2.303" in words
    assert "warning" not in words
    assert "mlcli lr-find digits.yaml" in typed.out
    picture = Image.open(tmp_path / "runs/inspect/digits-batch.png")
    assert min(picture.size) > 100
    assert [path.name for path in (tmp_path / "runs").glob("[!.]*")] == ["inspect"]  # no run folder


def test_json_says_it_all(mlcli, yaml):
    typed = mlcli("inspect", yaml("digits"), "train.batch_size=32", "--json")
    report = json.loads(typed.out)
    conv = report["layers"][0]
    assert (conv["name"], conv["kind"], conv["kernel"], conv["padding"]) == ("blocks.0.conv", "Conv2d", [5, 5], [2, 2])
    assert (conv["output_shape"], conv["neurons"], conv["parameters"]) == ([6, 8, 8], 384, 156)
    assert conv["flops"] == 2 * 384 * 25
    assert conv["receptive_field"] == "5"
    assert report["samples_at_once"] == 32
    assert report["samples_measured"] == 2
    assert report["memory_bytes"]["optimizer"] > 2 * report["memory_bytes"]["gradients"]
    assert report["first_loss"]["at_random"] == pytest.approx(math.log(10))
    assert report["first_loss"]["verdict"] == "as expected"
    assert report["first_loss"]["samples"] == 32
    assert report["overrides"] == ["train.batch_size=32"]


def test_the_first_loss_is_that_of_training(mlcli, yaml, tmp_path):
    report = json.loads(mlcli("inspect", yaml("linear"), "--json").out)
    mlcli("train", "linear.yaml", "train.epochs=1", "train.log_every=1", "train.baselines=false",
          "train.tensorboard.pictures=false", "optimizer.lr=1e-30")  # fmt: skip
    (metrics,) = tmp_path.glob("runs/linear/*/metrics.jsonl")
    first = next(entry for entry in map(json.loads, metrics.read_text().splitlines()) if entry["split"] == "train")
    assert report["first_loss"]["loss"] == pytest.approx(first["loss"], rel=1e-5)


def test_layers_that_collapse_are_named(mlcli, yaml):
    out = mlcli("inspect", yaml("linear")).out
    assert "nothing nonlinear between hidden1 and output" in out
    assert "one linear" in out
    assert "nothing nonlinear" not in mlcli("inspect", "linear.yaml", "model.activation=tanh").out


def test_arithmetic_on_request(mlcli, yaml):
    line = "blocks.0.conv: floor((8 + 2*2 - 1*(5 - 1) - 1) / 1 + 1) = floor(8) = 8"
    assert line in mlcli("inspect", yaml("digits"), "--arithmetic").out
    assert "floor" not in mlcli("inspect", "digits.yaml").out


def test_a_single_layer(mlcli, yaml):
    typed = mlcli("inspect", yaml("linear"), "model={name: linear}")
    assert typed.code == 0
    assert "output linear 10 10 650 1.28k all" in " ".join(typed.out.split())


def test_regression_has_no_pixels_and_no_picture(mlcli, yaml, tmp_path):
    out = mlcli("inspect", yaml("diabetes")).out
    assert "kernel" not in out
    assert "field" not in out
    assert "picture" not in out
    assert "variance of the standardised target" in out.replace("\n" + 10 * " ", " ")
    assert not (tmp_path / "runs").exists()


def test_a_fine_tuned_model(mlcli, yaml, photos):
    typed = mlcli("inspect", yaml("tuned"), "--json")
    report = json.loads(typed.out)
    assert report["trainable"] == 512 * 2 + 2  # the head alone
    assert report["memory_bytes"]["gradients"] == 4 * report["trainable"]
    whole = json.loads(mlcli("inspect", "tuned.yaml", "finetune=null", "--json").out)
    assert whole["trainable"] == whole["parameters"] == report["parameters"]
    assert whole["saved_bytes"] > 3 * report["saved_bytes"]  # frozen layers keep nothing for a backward pass
    assert "frozen" in mlcli("inspect", "tuned.yaml").out


def test_large_first_weights_are_said(mlcli, yaml, tmp_path):
    """Targets of another scale than the answers: a hinge whose margin is tiny beside the scores."""
    yaml("linear")
    out = mlcli("inspect", "linear.yaml", "loss={name: hinge, margin: 0.001}").out
    assert "far above chance" in out


def test_memory_follows_the_micro_batch(mlcli, yaml):
    # In bf16 copies of the weights come on top, which are the same for any batch.
    settings = ("train.batch_size=64", "train.precision=fp32", "--json")
    whole = json.loads(mlcli("inspect", yaml("digits"), *settings).out)
    parts = json.loads(mlcli("inspect", "digits.yaml", "train.accumulate=4", *settings).out)
    assert parts["samples_at_once"] == 16
    assert whole["saved_bytes"] == pytest.approx(4 * parts["saved_bytes"], rel=0.02)


def test_mistakes_are_answered(mlcli, yaml, tmp_path):
    assert mlcli("inspect").code == 2
    (tmp_path / "runs").write_text("a file")
    typed = mlcli("inspect", yaml("digits"))
    assert typed.code == 6
    assert "runs" in typed.err
    bad = mlcli("inspect", "digits.yaml", "model={name: torchvision, arch: alexnet}", "--out", "other")
    assert bad.code == 2


def test_task_and_data_are_left_alone(tmp_path, yaml, monkeypatch):
    """The library calls that the command makes leave the model bit for bit what it was."""
    from mlcli.commands import inspect

    monkeypatch.chdir(tmp_path)
    task = Experiment.load(tmp_path / yaml("digits")).build()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    monkeypatch.setattr(Experiment, "build", lambda self: task)
    inspect.run(tmp_path / "digits.yaml", [], root=tmp_path / "runs")
    assert all((tensor == before[name]).all() for name, tensor in task.model.state_dict().items())
