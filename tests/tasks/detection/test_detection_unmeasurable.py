"""A split that shows nothing to find is said to be not measurable, before training and in every score; never 0."""

import json
from pathlib import Path

import pytest

from tests.data.check_images import picture

YAML = """
task: detection
data: {name: box_csv, file: boxes.csv, image_size: 64}
model: {name: yolo, width: 4, strides: [16]}
train: {epochs: 1, batch_size: 4, device: cpu, precision: fp32, threads: 1, tensorboard: {layers: false}}
loader: {workers: 0}
"""


@pytest.fixture
def config(mlcli) -> Path:
    """Eight pictures to train on, four without an object to validate with, in the working folder."""
    rows = []
    for number in range(12):
        picture(number % 2, number, (64, 48)).save(f"{number}.png")
        rows.append(f"{number}.png,ant,8,6,50,40,train" if number < 8 else f"{number}.png,,,,,,val")
    Path("boxes.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax,split", *rows]) + "\n")
    Path("config.yaml").write_text(YAML)
    return Path("config.yaml")


def test_validation_without_objects_is_not_measured_and_train_decides(config, mlcli):
    checked = mlcli("data", "check", config)
    assert "not measurable" in checked.out
    done = mlcli("train", config, "--name", "n")
    assert done.code == 0, done.err
    before, _, table = done.out.partition("train map")
    assert "val has no object that counts" in before
    assert "data.val" in before, "how to mend it"
    assert "nan" not in table.lower()
    (folder,) = Path("runs/n").iterdir()
    status = json.loads((folder / "status.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert (status["best"]["split"], status["best"]["metric"]) == ("train", "map")
    assert status["scores"]["train"]["map"] >= 0
    assert {status["scores"]["val"][name] for name in ("map", "map50", "voc_ap50")} == {None}

    measured = mlcli("evaluate", "n", "--split", "val", "--json")
    assert measured.code == 0, measured.err
    result = json.loads(measured.out, parse_constant=lambda word: pytest.fail(word))
    assert (result["metrics"]["map"], result["best_f1"]) == (None, None)
    assert {result["classes"][0][key] for key in ("ap", "f1")} == {None}
    shown = mlcli("evaluate", "n", "--split", "val").out
    assert "0.0000" not in shown.partition("loss")[0]
    assert [line.split() for line in shown.splitlines() if line.strip().startswith("map50")] in ([["map50", "-"]],)
    assert mlcli("report", "n").code == 0


def test_weights_of_terms_that_there_are_not_are_refused(config, mlcli):
    done = mlcli("train", config, "loss.weights.bbox=2")
    assert (done.code, "no term called bbox" in done.err) == (2, True)
    assert "box, class, distribution" in done.err
