"""A task is one package and one entry: every command works on one that mlcli has never heard of."""

import ast
import csv
import json
from pathlib import Path

import pytest

from mlcli import experiment
from mlcli.data.info import DataInfo
from mlcli.engine.contract import (
    DrawsBatches,
    DrawsUntrained,
    HasBaselines,
    HasChanceLevel,
    HasEmbeddings,
)
from mlcli.engine.predicting import DrawsAnswers
from mlcli.experiment import Converter, Experiment
from tests.points.build import build_predictor, build_task

YAML = (Path(__file__).parent / "points/circle.yaml").read_text()
OPTIONAL = (
    DrawsAnswers, DrawsBatches, DrawsUntrained, HasBaselines, HasChanceLevel, HasEmbeddings,
)  # fmt: skip


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """The package as pip leaves it: its entry point stands in a folder of metadata on the path."""
    metadata = tmp_path / "site" / "points-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: points\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mlcli.tasks]\npoints = tests.points:ENTRY\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(experiment, "TASKS", dict(experiment.TASKS))
    (tmp_path / "circle.yaml").write_text(YAML)


def succeed(typed) -> str:
    assert typed.code == 0, typed.err + typed.out
    return typed.out


@pytest.fixture
def trained(mlcli) -> str:
    return succeed(mlcli("train", "circle.yaml"))


def test_it_needs_nothing_but_the_contract():
    allowed = {
        "contract",
        "predicting",
        "terms",
        "settings",
        "runtime",
        "schema",
        "info",
        "examination",
        "draft",
        "survey",
        "errors",
        "experiment",
    }
    used = set()
    for path in (Path(__file__).parent / "points").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mlcli"):
                used.add(node.module.rpartition(".")[2])
    assert used <= allowed


def test_the_optional_protocols_are_not_asked_of_it(tmp_path):
    config = Experiment.load(tmp_path / "circle.yaml").config
    task, predictor = build_task(config), build_predictor(config, {})
    assert not [kind for kind in OPTIONAL if isinstance(task, kind) or isinstance(predictor, kind)]
    assert not isinstance(Experiment.load(tmp_path / "circle.yaml").builder, Converter)
    assert isinstance(task.source.info, DataInfo)


def test_train_evaluate_report_and_runs(mlcli, trained, tmp_path):
    (folder,) = (tmp_path / "runs/circle").iterdir()
    assert "distance" in trained
    assert (folder / "report.html").exists()
    assert not (folder / "baselines.json").exists()
    assert list(json.loads((folder / "evaluation-test.json").read_text())["metrics"]) == ["loss", "distance"]
    scored = json.loads(succeed(mlcli("evaluate", "circle", "--json")))
    assert scored["points"] == scored["samples"] == 20
    assert scored["metrics"]["distance"] < 1.2
    (folder / "report.html").unlink()
    succeed(mlcli("report", "circle"))
    assert "distance" in (folder / "report.html").read_text()
    assert "circle" in succeed(mlcli("runs"))
    succeed(mlcli("train", "circle.yaml", "model.hidden=4"))
    assert "model.hidden" in succeed(mlcli("runs", "compare", "circle"))
    succeed(mlcli("train", "--resume", "circle", "train.epochs=4"))


def test_predict_in_every_format(mlcli, trained, tmp_path):
    (tmp_path / "new.txt").write_text("1 0\n0.7 0.7\nnonsense\n")
    assert mlcli("predict", "circle", "new.txt", "--output", "a.csv").code == 4
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [bool(row["x"]) for row in rows] == [True, True, False]
    assert "nonsense" in rows[2]["error"]
    assert mlcli("predict", "circle", "new.txt", "--output", "a.geojson").code == 4
    records = json.loads((tmp_path / "a.geojson").read_text())
    assert [*map(float, (rows[0]["x"], rows[0]["y"]))] == records[0]["point"]
    refused = mlcli("predict", "circle", "new.txt", "--pictures", "shown")
    assert (refused.code, "no pictures" in refused.err) == (2, True)
    refused = mlcli("predict", "circle", "new.txt", "--threshold", "0.5")
    assert (refused.code, "no score to filter by" in refused.err) == (2, True)


def test_inspect_and_lr_find(mlcli):
    page = succeed(mlcli("inspect", "circle.yaml"))
    assert "circle  60 train" in page
    assert "linear tanh" in " ".join(page.split()).lower()
    succeed(mlcli("lr-find", "circle.yaml"))


def test_bench_io(mlcli):
    assert "circle" in succeed(mlcli("bench-io", "circle.yaml", "--quick"))


def test_data_check(mlcli, tmp_path):
    assert "Nothing to do" in succeed(mlcli("data", "check", "circle.yaml"))
    typed = mlcli("data", "check", "circle.yaml", "data.samples=9")
    assert (typed.code, "so few points" in typed.out) == (4, True)
    refused = mlcli("data", "convert", "circle.yaml", "elsewhere", "--to", "voc")
    assert refused.code == 2


def test_init_offers_its_template_and_what_it_recognises(mlcli, tmp_path):
    succeed(mlcli("init", "circle", "-o", "new.yaml"))
    lines = (tmp_path / "new.yaml").read_text().splitlines()
    assert lines[1] == "# Points on a circle: 60 of them, included."
    assert Experiment.load(tmp_path / "new.yaml").config == Experiment.load(tmp_path / "circle.yaml").config
    (tmp_path / "twelve.points").write_text("1 0\n" * 12)
    assert "warning: these are few points." in succeed(mlcli("init", "twelve.points", "-o", "twelve.yaml"))
    assert Experiment.load(tmp_path / "twelve.yaml").plain()["data"] == {"name": "circle", "samples": 12}
    refused = mlcli("init", "circel", "-o", "other.yaml")
    assert (refused.code, "did you mean circle?" in refused.err) == (2, True)


def test_schema_and_messages_know_it(mlcli, tmp_path):
    assert "Points on a circle" in succeed(mlcli("schema"))
    assert "Points on a circle" in succeed(mlcli("schema", "--markdown"))
    (tmp_path / "wrong.yaml").write_text(YAML.replace("tiny", "tyni"))
    typed = mlcli("train", "wrong.yaml")
    assert (typed.code, "'tyni'" in typed.err) == (2, True)
    (tmp_path / "typo.yaml").write_text(YAML.replace("points", "point"))
    assert "points" in mlcli("train", "typo.yaml").err
