"""The Python API does what the commands do."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import mlcli
from mlcli.commands import evaluate
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.schema.yaml12 import dump

CONFIG = {
    "task": "classification",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [16]},
    "optimizer": {"name": "adam", "lr": 3e-3},
    "train": {"epochs": 2, "baselines": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def run(folder):
    return mlcli.train(CONFIG, "train.epochs=3", name="digits", root=folder / "runs")


@pytest.fixture
def digit(tmp_path):
    pixels = (np.arange(64) * 4).astype(np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    return tmp_path / "digit.png", pixels


def test_the_package_alone_loads_no_torch():
    script = "import mlcli, sys; print(mlcli.__version__, 'torch' in sys.modules, hasattr(mlcli, 'nothing'))"
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert said.split() == [mlcli.__version__, "False", "False"]


def test_a_dict_trains_like_its_yaml(run, folder):
    yaml = folder / "digits.yaml"
    yaml.write_text(dump(CONFIG))
    again = mlcli.train(yaml, "train.epochs=3", root=folder / "runs")
    assert again.scores == run.scores
    assert again.path.parent.name == "digits"
    assert again.path != run.path


def test_what_a_run_knows(run):
    assert run.scores["test"]["accuracy"] > 0.4
    assert run.status["state"] == "finished"
    assert "finished" in repr(run)
    assert run.config["train"]["epochs"] == 3
    assert {(line["split"], line["epoch"]) for line in run.curves} >= {("val", 1), ("val", 2), ("val", 3)}
    assert run.report.read_text().startswith("<!doctype html>")
    shown = run._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown
    assert "&lt;script" in shown


def test_the_verdict_is_the_reports(run):
    assert run.verdict.kind in run.report.read_text().lower()
    assert run.verdict.reasons
    assert run.layer_troubles == []
    (run.path / "layers.jsonl").write_text(
        '{"step": 3, "layers": [], "notes": ["dead activations: net.x (over 9%)"]}\n'
    )
    assert run.layer_troubles == ["dead activations: net.x (over 9%) at step 3"]


def test_a_yaml_to_start_from(tmp_path):
    written = mlcli.init("xor", tmp_path / "xor.yaml")
    assert written == tmp_path / "xor.yaml"
    assert "name: xor" in written.read_text()
    with pytest.raises(ConfigError, match="exists already"):
        mlcli.init("xor", written)
    assert mlcli.init("digits", str(written), force=True).read_text().count("digits")


def test_one_is_found_by_folder_and_name(run, folder):
    assert mlcli.load(run.path).scores == mlcli.load("digits", root=folder / "runs").scores
    with pytest.raises(CheckpointError, match="nothing"):
        mlcli.load("nothing", root=folder / "runs")


def test_the_model_takes_bytes(run):
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert not run.model.training
    assert run.model(images).shape == (4, 10)


def test_an_image_in_memory_is_answered_as_its_file(run, digit):
    path, pixels = digit
    (of_file,) = run.predict(path)
    assert of_file["input"] == str(path)
    assert len(of_file["probabilities"]) == 10
    forms = [Image.open(path), pixels, torch.from_numpy(pixels)[None], np.stack([pixels] * 3, axis=2)]
    answers = run.predict(forms)
    assert [each["input"] for each in answers] == [f"image {number}" for number in range(4)]
    for each in answers:
        assert each["probabilities"] == of_file["probabilities"]
    assert run.predict([path, path.parent / "no.png"][:1], top=2)[0]["probabilities"].keys() == {
        *list(dict(sorted(of_file["probabilities"].items(), key=lambda item: -item[1])))[:2]
    }


@pytest.mark.parametrize("wrong", [np.zeros((8, 8)), np.zeros((2, 2, 2, 2), np.uint8), [[1, 2], [3, 4]]])
def test_what_is_no_image_is_refused(run, wrong):
    with pytest.raises(DataError, match="is no image"):
        run.predict([wrong])


def test_rows_of_a_table(folder):
    table = folder / "flowers.csv"
    rows = [{"a": str(number % 7), "b": str(number % 2), "kind": "xy"[number % 2]} for number in range(40)]
    table.write_text("a,b,kind\n" + "".join(f"{r['a']},{r['b']},{r['kind']}\n" for r in rows))
    config = CONFIG | {"data": {"name": "csv", "file": str(table), "target": "kind"}}
    run = mlcli.train(config, "train.batch_size=8", root=folder / "runs", name="flowers")
    of_dicts = run.predict(rows[:3])
    assert [each["label"] in "xy" for each in of_dicts] == [True] * 3
    assert [each["probabilities"] for each in of_dicts] == [each["probabilities"] for each in run.predict(table)][:3]


def cli_evaluates(run):
    evaluate.run(str(run.path), "val")
    return json.loads((run.path / "evaluation-val.json").read_text())


def test_evaluating_is_the_commands(run):
    result = run.evaluate("val")
    assert result["metrics"]["accuracy"] == pytest.approx(run.scores["val"]["accuracy"])
    assert cli_evaluates(run)["metrics"] == result["metrics"]


def test_going_on(run):
    more = run.resume("train.epochs=4")
    assert more.path == run.path
    assert max(line["epoch"] for line in more.curves) == 4


def test_mistakes_of_a_dict_are_told_at_once():
    with pytest.raises(ConfigError) as raised:
        mlcli.train(CONFIG | {"modle": {}, "optimizer": {"name": "adam", "lr": -1}})
    assert "modle" in str(raised.value)
    assert "optimizer.lr" in str(raised.value)
    with pytest.raises(ConfigError, match="no YAML can"):
        mlcli.train(CONFIG | {"train": {"epochs": np.int64(3)}})
    assert raised.value._render_traceback_() == [str(raised.value)]
