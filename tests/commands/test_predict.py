"""`mlcli predict` on real runs: answers for files, folders and tables, and for those that cannot be read."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcli.commands import evaluate, predict
from mlcli.commands.predict import Wanted
from mlcli.data.config import ClassificationTable, Digits, RegressionTable
from mlcli.data.sources.build import build_source
from mlcli.errors import CheckpointError, ConfigError, DataError, ExitCode
from tests.commands.conftest import write_table


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The digits of the test split as PNG files: <folder>/<label>/<number>.png"""
    folder, samples = tmp_path_factory.mktemp("digits"), build_source(Digits(name="digits")).splits["test"]
    for number, label in enumerate(samples.targets.tolist()):
        (folder / str(label)).mkdir(exist_ok=True)
        pixels = samples.read(np.array([number]))[0, 0].numpy()
        Image.fromarray(pixels).save(folder / str(label) / f"{number:03d}.png")
    return folder


def test_a_folder_of_images_is_answered_as_evaluate_measured(runs_root, pictures, tmp_path, capsys):
    (pictures / "0" / "._hidden.png").write_bytes(b"not an image")
    assert predict.run("digits", [pictures], output=tmp_path / "all.jsonl", root=runs_root) == ExitCode.OK
    records = jsonl(tmp_path / "all.jsonl")
    evaluate.run("digits", root=runs_root)
    path = next(runs_root.glob("digits/*/evaluation-test.json"))
    hits = [Path(record["input"]).parent.name == record["label"] for record in records]
    assert len(hits) == 359
    assert sum(hits) / len(hits) == pytest.approx(json.loads(path.read_text())["metrics"]["accuracy"])
    for record in records:
        assert list(record["probabilities"]) == list("0123456789")
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (
            record["probability"] == record["probabilities"][record["label"]] == max(record["probabilities"].values())
        )
    assert "359 of 359 answered" in capsys.readouterr().out


def test_csv_says_the_same_as_json_lines(runs_root, pictures, tmp_path):
    for name in ("answers.jsonl", "answers.csv"):
        predict.run("digits", [pictures / "3"], output=tmp_path / name, root=runs_root)
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, record in zip(rows, jsonl(tmp_path / "answers.jsonl"), strict=True):
        assert row["input"] == record["input"]
        assert row["label"] == record["label"]
        assert float(row["p_3"]) == record["probabilities"]["3"]
        assert row["error"] == ""


def test_without_output_json_lines_are_printed_and_nothing_else(runs_root, pictures, capsys):
    capsys.readouterr()
    first = sorted((pictures / "1").glob("*.png"))[:2]
    predict.run("digits", first, Wanted(top=2), root=runs_root)
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert [record["input"] for record in records] == [str(path) for path in first]
    assert all(next(iter(record["probabilities"])) == record["label"] for record in records)
    assert all(len(record["probabilities"]) == 2 for record in records)
    assert "2 of 2 answered" in printed.err


def test_a_person_at_a_terminal_gets_a_table(runs_root, pictures, table, capsys, monkeypatch):
    files = sorted((pictures / "1").glob("*.png"))[:3]
    predict.run("digits", files, root=runs_root)
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    predict.run("digits", files, root=runs_root)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["input", "label", "probability"]
    for row, record in zip(rows, records, strict=True):
        assert row.split()[1:] == [record["label"], f"{record['probability']:.4f}"]
        assert record["input"].endswith(row.split()[0].lstrip("…"))
    predict.run("digits", files, root=runs_root, as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == records
    predict.run("wine", [table], root=runs_root)
    assert len(capsys.readouterr().out.splitlines()) == 28


def test_the_csv_of_rows_keeps_their_columns(runs_root, table, tmp_path):
    predict.run("wine", [table], output=tmp_path / "a.csv", root=runs_root)
    predict.run("wine", [table], output=tmp_path / "a.jsonl", root=runs_root)
    (given, asked), (columns, rows) = (read_table(path) for path in (table, tmp_path / "a.csv"))
    assert columns[: len(given)] == given
    assert [row[: len(given)] for row in rows] == asked
    answers = [row[columns.index("predicted_label")] for row in rows]
    assert answers == [record["label"] for record in jsonl(tmp_path / "a.jsonl")]


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_a_bad_image_does_not_keep_the_others_from_being_answered(runs_root, pictures, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(pictures / "2", folder)
    (folder / "bad.png").write_bytes((folder / min(p.name for p in folder.iterdir())).read_bytes()[:40])
    (folder / "empty.jpg").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    given = [folder, tmp_path / "gone.png"]
    with pytest.raises(DataError, match="3 of") as error:
        predict.run("digits", given, output=tmp_path / "a.jsonl", pictures=tmp_path / "shown", root=runs_root)
    assert error.value.code == 4
    records = jsonl(tmp_path / "a.jsonl")
    bad = {Path(record["input"]).name for record in records if "error" in record}
    assert bad == {"bad.png", "empty.jpg", "gone.png"}
    assert all("label" in record for record in records if Path(record["input"]).name not in bad)
    assert len(list((tmp_path / "shown").glob("*.png"))) == len(records) - 3


def test_inverted_images_are_answered_the_same_with_invert(runs_root, pictures, tmp_path):
    files = sorted((pictures / "7").glob("*.png"))[:5]
    (tmp_path / "ink").mkdir()
    for file in files:
        Image.fromarray(255 - np.asarray(Image.open(file))).save(tmp_path / "ink" / file.name)
    predict.run("digits", files, output=tmp_path / "a.jsonl", root=runs_root)
    predict.run("digits", [tmp_path / "ink"], Wanted(invert=True), output=tmp_path / "b.jsonl", root=runs_root)
    predict.run("digits", [tmp_path / "ink"], output=tmp_path / "c.jsonl", root=runs_root)
    as_drawn, inverted, not_inverted = (
        [record["probabilities"] for record in jsonl(tmp_path / f"{name}.jsonl")] for name in "abc"
    )
    assert inverted == as_drawn
    assert not_inverted != as_drawn


def test_images_listed_in_a_csv_file_relative_to_it(runs_root, pictures, tmp_path):
    files = sorted((pictures / "4").glob("*.png"))[:3]
    shutil.copytree(pictures / "4", tmp_path / "images")
    (tmp_path / "list.csv").write_text(
        "path,note\n" + "".join(f"images/{file.name},x\n" for file in files) + "gone.png,\n"
    )
    with pytest.raises(DataError, match="1 of 4"):
        predict.run("digits", [tmp_path / "list.csv"], output=tmp_path / "a.jsonl", root=runs_root)
    predict.run("digits", files, output=tmp_path / "b.jsonl", root=runs_root)
    listed, direct = jsonl(tmp_path / "a.jsonl"), jsonl(tmp_path / "b.jsonl")
    assert [record["probabilities"] for record in listed[:3]] == [record["probabilities"] for record in direct]
    assert "no such file" in listed[3]["error"]


def test_pictures_show_image_and_answer(runs_root, pictures, tmp_path):
    file = min((pictures / "5").glob("*.png"))
    predict.run("digits", [file], output=tmp_path / "a.jsonl", pictures=tmp_path / "shown", root=runs_root)
    label = jsonl(tmp_path / "a.jsonl")[0]["label"]
    (shown,) = (tmp_path / "shown").glob("*.png")
    assert shown.name == f"00001-{label}-{file.stem}.png"
    picture = Image.open(shown)
    assert picture.width == 320
    assert picture.height > 340
    assert (np.asarray(picture)[20, 20] == np.asarray(Image.open(file))[0, 0]).all()  # the enlarged first pixel


@pytest.fixture
def table(tmp_path) -> Path:
    source = build_source(ClassificationTable(name="wine"))
    write_table(tmp_path / "new.csv", source, ("test",), ("red", "rosé", "white"))
    return tmp_path / "new.csv"


def test_rows_of_a_table_without_the_training_data(runs_root, table, tmp_path):
    training = runs_root.parent / "wine.csv"
    training.rename(tmp_path / "away.csv")
    try:
        predict.run("wine", [table], output=tmp_path / "a.jsonl", root=runs_root)
    finally:
        (tmp_path / "away.csv").rename(training)
    records = jsonl(tmp_path / "a.jsonl")
    assert records[0]["input"] == f"{table}:2"
    assert set(records[0]["probabilities"]) == {"red", "rosé", "white"}
    with table.open(newline="") as file:
        truth = [row["label"] for row in csv.DictReader(file)]
    assert np.mean([record["label"] == label for record, label in zip(records, truth, strict=True)]) > 0.8


def test_scores_of_a_hinge_loss_are_not_called_probabilities(runs_root, pictures, capsys):
    file = min((pictures / "5").glob("*.png"))
    predict.run("perceptron", [file], root=runs_root)
    assert "the hinge loss defines no probabilities" in capsys.readouterr().err
    predict.run("digits", [file], root=runs_root)
    assert "probabilities;" not in capsys.readouterr().err


def test_a_bad_row_and_a_missing_column(runs_root, table, tmp_path):
    lines = table.read_text().splitlines()
    lines[2] = "much" + lines[2][lines[2].index(",") :]
    table.write_text("\n".join(lines))
    with pytest.raises(DataError, match="1 of 27"):
        predict.run("wine", [table], output=tmp_path / "a.csv", root=runs_root)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "'much' in column 'alcohol'" in rows[1]["error"]
    assert rows[1]["predicted_label"] == ""
    assert all(row["predicted_label"] for row in rows if row is not rows[1])
    table.write_text(table.read_text().replace("alcohol", "spirit", 1))
    with pytest.raises(DataError, match="'alcohol'"):
        predict.run("wine", [table], root=runs_root)


def test_numbers_are_predicted_in_their_own_unit(runs_root, tmp_path, capsys):
    source = build_source(RegressionTable(name="diabetes"), regression=True)
    samples = source.splits["test"]
    rows = samples.read(np.arange(len(samples))).tolist()
    text = ",".join(source.info.preparation["features"]) + "\n"
    (tmp_path / "people.csv").write_text(text + "".join(",".join(f"{v:.9g}" for v in row) + "\n" for row in rows))
    predict.run("diabetes", [tmp_path / "people.csv"], output=tmp_path / "a.jsonl", root=runs_root)
    answers = np.array([record["progression"] for record in jsonl(tmp_path / "a.jsonl")])
    capsys.readouterr()
    evaluate.run("diabetes", root=runs_root, as_json=True)
    rmse = np.sqrt(np.mean((answers - samples.targets.numpy()) ** 2))
    assert json.loads(capsys.readouterr().out)["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-5)


@pytest.mark.parametrize(
    ("run", "inputs", "options", "kind", "message"),
    [
        ("digits", ["nowhere.png"], {}, DataError, "no such file or folder: nowhere.png"),
        ("digits", ["."], {}, DataError, "no images in this folder"),
        ("digits", ["new.csv"], {}, DataError, "no column 'path'"),
        ("digits", ["."], {"output": Path("answers.txt")}, ConfigError, "format of answers.txt"),
        ("wine", ["."], {}, ConfigError, "rows of a CSV file, and . is a folder"),
        ("wine", ["new.csv", "new.csv"], {}, ConfigError, "got 2 paths"),
        ("wine", ["new.csv"], {"wanted": Wanted(invert=True)}, ConfigError, "only images can be inverted"),
        ("digits", ["seven.png"], {"wanted": Wanted(thresholds={"": 0.5})}, ConfigError, "no score to filter by"),
        ("wine", ["new.csv"], {"pictures": Path("shown")}, ConfigError, "no pictures"),
        ("wine", ["new.csv"], {"explain": True}, ConfigError, "no pictures"),
        ("digits", ["seven.png"], {"explain": True}, ConfigError, "no map of an image"),
        ("nothing", ["new.csv"], {}, CheckpointError, "'nothing' is not a run"),
    ],
)
def test_what_is_refused(run, inputs, options, kind, message, runs_root, table, monkeypatch):
    monkeypatch.chdir(table.parent)
    if inputs == ["seven.png"]:
        inputs = [runs_root.parent / "seven.png"]
        Image.new("L", (8, 8)).save(inputs[0])
    with pytest.raises(kind, match=message):
        predict.run(run, [Path(path) for path in inputs], root=runs_root, **options)
    assert sorted(path.name for path in table.parent.iterdir()) == ["new.csv"]
