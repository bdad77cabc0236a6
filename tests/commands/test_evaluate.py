"""`mlcli evaluate` on real runs: the numbers, the page, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error

from mlcli.commands import evaluate, train
from mlcli.engine.membership import Membership
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.experiment import Experiment
from mlcli.saved import load_predictor, refuse_other_data


def evaluated(capsys: pytest.CaptureFixture[str], run: str, root: Path, *overrides: str, **options) -> dict:
    capsys.readouterr()
    evaluate.run(run, overrides=overrides, root=root, as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def answers(run: str, root: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and truth of a split, without the feed, the metrics and the evaluation loop."""
    predictor, _ = load_predictor(run, "best", root)
    samples = Experiment.of_run(open_run(run, root).path).build().source.splits[split]
    with torch.inference_mode():
        inputs = samples.read(torch.arange(len(samples)).numpy())
        return predictor.predict(predictor.model, inputs), samples.targets


def test_classification_against_scikit_learn(runs_root, capsys):
    result = evaluated(capsys, "digits", runs_root)
    p, truth = answers("digits", runs_root, "test")
    assert result["split"] == "test"
    assert result["samples"] == len(truth)
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy_score(truth, p.argmax(1)))
    assert result["metrics"]["macro_f1"] == pytest.approx(f1_score(truth, p.argmax(1), average="macro"))
    assert result["metrics"]["loss"] == pytest.approx(-p.log()[torch.arange(len(truth)), truth].mean().item(), rel=1e-4)
    assert [c["support"] for c in result["classes"]] == torch.bincount(truth).tolist()
    assert sum(map(sum, result["confusion"])) == len(truth)


def test_regression_against_scikit_learn(runs_root, capsys):
    result = evaluated(capsys, "diabetes", runs_root)
    predictions, truth = answers("diabetes", runs_root, "test")
    assert result["metrics"]["rmse"] == pytest.approx(root_mean_squared_error(truth, predictions))
    assert result["metrics"]["r2"] == pytest.approx(r2_score(truth, predictions), rel=1e-4)
    assert "classes" not in result


@pytest.mark.parametrize("run", ["digits", "diabetes", "wine"])
def test_it_measures_what_training_measured(run, runs_root, capsys):
    status = open_run(run, runs_root).status()
    best = status["best"]
    assert evaluated(capsys, run, runs_root, split="val")["metrics"][best["metric"]] == pytest.approx(best["value"])
    assert evaluated(capsys, run, runs_root)["metrics"] == pytest.approx(status["scores"]["test"])


def test_it_computes_in_the_precision_of_predict_and_says_so(runs_root, tmp_path, capsys):
    yaml, overrides = runs_root.parent / "digits.yaml", ["train.precision=bf16", "train.epochs=2"]
    train.run(yaml, overrides, name="half", resume=None, root=tmp_path)
    result = evaluated(capsys, "half", tmp_path)
    p, truth = answers("half", tmp_path, "test")
    loss = -p.log()[torch.arange(len(truth)), truth].mean().item()
    assert result["precision"] == "fp32"
    assert result["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert any("in fp32, as predict answers; training measured in bf16" in note for note in result["notes"])
    again = evaluated(capsys, "half", tmp_path, "train.precision=bf16")
    assert (again["precision"], again["notes"]) == ("bf16", [])
    assert evaluated(capsys, "half", tmp_path, "train={precision: bf16}")["precision"] == "bf16"
    assert again["metrics"]["loss"] == pytest.approx(open_run("half", tmp_path).status()["scores"]["test"]["loss"])
    assert again["metrics"]["loss"] != pytest.approx(loss, rel=1e-5)


def test_the_page_and_the_file(runs_root, capsys):
    capsys.readouterr()
    evaluate.run("digits", root=runs_root)
    page = capsys.readouterr().out
    written = json.loads((open_run("digits", runs_root).path / "evaluation-test.json").read_text())
    assert f"accuracy         {written['metrics']['accuracy']:.4f}" in page
    for word in ("top5 accuracy", "macro precision", "ece", "samples", "confusion"):
        assert word in page
    assert max(map(len, page.splitlines()[:-1])) < 100


def test_tables_say_what_their_answers_rest_on(runs_root, capsys):
    evaluate.run("wine", root=runs_root)
    page = capsys.readouterr().out
    assert "without the column, accuracy is worse by" in page
    (path,) = runs_root.glob("wine/*/evaluation-test.json")
    found = json.loads(path.read_text())["importance"]
    assert len(found["columns"]) == 13
    report = next(runs_root.glob("wine/*/report.html")).read_text()
    assert "What the answers rest on" in report
    assert "What the answers rest on" not in next(runs_root.glob("digits/*/report.html")).read_text()


def test_the_last_checkpoint_can_be_asked_for(runs_root, capsys):
    assert evaluated(capsys, "digits", runs_root, checkpoint="last")["checkpoint"].startswith("step-")


def test_without_a_test_split_val_is_measured_and_said(runs_root, capsys, tmp_path):
    shutil.copytree(runs_root / "diabetes", tmp_path / "diabetes")
    run = open_run("diabetes", tmp_path)
    kept = run.membership()
    run.write_membership(Membership({split: part for split, part in kept.splits.items() if split != "test"}))
    capsys.readouterr()
    evaluate.run("diabetes", root=tmp_path)
    assert "the data have no test split, so this is val" in capsys.readouterr().out
    with pytest.raises(DataError, match="no split 'test'") as error:
        evaluate.run("diabetes", "test", root=tmp_path)
    assert "train (" in error.value.where
    assert "val (" in error.value.where


def test_moved_data_are_found_by_an_override_relative_to_the_working_directory(
    runs_root, capsys, tmp_path, monkeypatch
):
    (tmp_path / "moved.csv").write_bytes((runs_root.parent / "wine.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    moved = evaluated(capsys, "wine", runs_root, "data.file=moved.csv")
    assert moved["metrics"] == evaluated(capsys, "wine", runs_root)["metrics"]
    assert moved["overrides"] == ["data.file=moved.csv"]


def test_data_with_other_classes_are_refused(runs_root, tmp_path):
    text = (runs_root.parent / "wine.csv").read_text().replace(",white", ",sparkling")
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(CheckpointError) as error:
        evaluate.run("wine", None, [f"data.file={tmp_path / 'other.csv'}"], root=runs_root)
    assert error.value.what == (
        "the model knows 3 classes, the data have 3; only in the checkpoint: white; only in the data: sparkling"
    )


def test_data_with_other_columns_are_refused(runs_root, tmp_path):
    text = (runs_root.parent / "wine.csv").read_text().replace("alcohol,", "spirit,", 1)
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(CheckpointError, match="only in the checkpoint: alcohol; only in the data: spirit"):
        evaluate.run("wine", None, [f"data.file={tmp_path / 'other.csv'}"], root=runs_root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": [3, 32, 32]}, r"checkpoint has input_shape \[1, 8, 8\], the data \[3, 32, 32\]"),
        ({"class_names": ["b", "a"]}, "2 classes, the data have 2; their order differs"),
    ],
    ids=["shape", "order_of_classes"],
)
def test_both_sides_are_named(change, message):
    saved = {"kind": "image", "input_shape": [1, 8, 8], "class_names": ["a", "b"], "target": "label", "preparation": {}}
    refuse_other_data(saved, dict(saved))
    with pytest.raises(CheckpointError, match=message):
        refuse_other_data(saved, saved | change)


def test_weights_that_do_not_fit_the_config_are_refused(runs_root):
    with pytest.raises(CheckpointError, match=r"do not fit .*hidden1"):
        evaluate.run("digits", None, ["model.hidden=[16]"], root=runs_root)


def test_the_score_by_the_amount_of_a_change(runs_root, capsys):
    plain = evaluated(capsys, "digits", runs_root)
    folder = open_run("digits", runs_root).path
    before = (folder / "evaluation-test.json").read_bytes()
    result = evaluated(capsys, "digits", runs_root, changes={"shift": "0..4"})
    assert [row["amount"] for row in result["scores"]] == [0, 1, 2, 3, 4]
    assert result["scores"][0]["accuracy"] == plain["metrics"]["accuracy"]
    assert result["scores"][0]["loss"] == pytest.approx(plain["metrics"]["loss"], rel=1e-5)
    assert result["scores"][2]["accuracy"] < 0.7 * plain["metrics"]["accuracy"]
    assert evaluated(capsys, "digits", runs_root, changes={"shift": "4,0,2"})["scores"] == result["scores"][::2]
    assert json.loads((folder / "robustness-test-shift.json").read_text())["unit"].startswith("pixels")
    assert (folder / "robustness-test-shift.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "evaluation-test.json").read_bytes() == before, "the report is about images as they are"


def test_several_views_of_each_image_answer_together(runs_root, capsys):
    predictor, _ = load_predictor("digits", "best", runs_root)
    samples = Experiment.of_run(open_run("digits", runs_root).path).build().source.splits["test"]
    images = samples.read(torch.arange(len(samples)).numpy())
    with torch.inference_mode():
        both = [predictor.predict(predictor.model, seen) for seen in (images, images.flip(3))]
    right = ((both[0] + both[1]).argmax(1) == samples.targets).float().mean().item()
    result = evaluated(capsys, "digits", runs_root, views="flip")
    assert result["metrics"]["accuracy"] == pytest.approx(right)
    assert "loss" not in result["metrics"]
    assert any("digits" in note for note in result["notes"]), "a mirrored digit is another"
    assert (open_run("digits", runs_root).path / "evaluation-test-tta.json").is_file()


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        ("wine", {"changes": {"shift": "0..4"}}, "shift makes no sense"),
        ("wine", {"views": "flip"}, "flip makes no sense"),
        ("digits", {"views": "turn"}, "turn makes no sense"),
        ("digits", {"views": ""}, "makes no sense"),
        ("digits", {"changes": {"shift": "some"}}, "cannot read the amounts 'some'"),
        ("digits", {"changes": {"noise": "0..2"}}, "2 is no amount|1.5 is no amount"),
        ("digits", {"changes": {"blur": "nan"}}, "nan is no amount"),
        ("digits", {"changes": {"blur": ",".join(map(str, range(51)))}}, "as many evaluations"),
        ("digits", {"changes": {"shift": "0..4", "blur": "0..1"}}, "one of these"),
        ("digits", {"changes": {"shift": "0..4"}, "views": "flip"}, "one of these"),
    ],
)
def test_changes_that_make_no_sense_are_refused(run, options, message, runs_root):
    with pytest.raises(ConfigError, match=message):
        evaluate.run(run, root=runs_root, **options)


def test_the_table_of_a_change_fits_a_narrow_screen(runs_root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    evaluate.run("digits", root=runs_root, changes={"noise": "0,0.1"})
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line for line in lines if line.startswith("noise ")]
    assert "accuracy" in header
    assert len(header) <= 60
