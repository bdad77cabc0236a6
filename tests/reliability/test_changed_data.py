"""Data that change after training: each sample is measured in the split it was in, and no run goes on with others."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcli.commands import evaluate, predict, train
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError, ConfigError, DataError

SETTINGS = (
    "train: {epochs: 1, batch_size: 8, device: cpu, threads: 1, baselines: false}\nloader: {cache: none, workers: 0}"
)
YAMLS = {
    "table": "task: classification\ndata: {name: csv, file: t.csv, target: y, val: 0.2, test: 0.3}\n"
    "model: {name: mlp, hidden: [32]}",
    "given": "task: regression\ndata: {name: csv, file: g.csv, target: y, split_column: split}\nmodel: {name: linear}",
    "photos": "task: classification\ndata: {name: folder, root: photos, test: 0.25}\nmodel: {name: linear}",
    "boxes": "task: detection\ndata: {name: box_csv, file: b.csv, root: photos, image_size: 32, val: 0.2, test: 0.3}\n"
    "model: {name: yolo, width: 4, strides: [16]}",
}


def write_data(folder: Path) -> None:
    """Rows and small photographs whose labels are noise, and a box on each photograph."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    rows = [[*(f"{value:.4f}" for value in noise.normal(size=4)), "abc"[i % 3], f"k{i % 2}"] for i in range(80)]
    rows[5][0] = ""  # a gap
    write(folder / "t.csv", ["a", "b", "c", "d", "e", "y"], rows)
    given = [
        [*row[:4], f"{noise.normal():.3f}", ("train", "train", "val", "test")[i % 4]] for i, row in enumerate(rows)
    ]
    write(folder / "g.csv", ["a", "b", "c", "d", "y", "split"], given)
    boxes = []
    for number in range(24):
        path = folder / f"photos/{('cat', 'dog')[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        boxes.append([f"{path.parent.name}/{path.name}", path.parent.name, 4, 5, 20, 20 + number % 5])
    write(folder / "b.csv", ["filename", "class", "xmin", "ymin", "xmax", "ymax"], boxes)


def write(path: Path, header: list[str], rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("changed")
    write_data(folder / "whole")
    shutil.copytree(folder / "whole", folder / "data")
    for name, text in YAMLS.items():
        (folder / "data" / f"{name}.yaml").write_text(f"{text}\noptimizer: {{name: adam, lr: 0.01}}\n{SETTINGS}\n")
        train.run(folder / "data" / f"{name}.yaml", [], name=None, resume=None, root=folder / "runs")
    return folder


@pytest.fixture
def place(trained) -> Path:
    """The folder of the data, which are whole again before each test."""
    shutil.rmtree(trained / "data/photos", ignore_errors=True)
    shutil.copytree(trained / "whole", trained / "data", dirs_exist_ok=True)
    return trained / "data"


def measured(place: Path, capsys, run: str, *overrides: str, **options) -> dict:
    capsys.readouterr()
    evaluate.run(run, overrides=overrides, root=place.parent / "runs", as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def resumed(place: Path, run: str) -> None:
    """Resume a copy of a run for a step more, or raise what keeps it from that."""
    root = place.parent / "copies"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(place.parent / "runs" / run, root / run)
    train.run(None, ["train.epochs=2"], name=None, resume=run, root=root)


@pytest.mark.parametrize("run", YAMLS)
def test_the_run_keeps_its_splits(trained, run):
    folder = open_run(run, trained / "runs")
    header, rows = read(folder.path / "splits.csv")
    assert header == ["sample", "split"]
    summary = json.loads((folder.path / "summary.json").read_text())
    assert Counter(split for _, split in rows) == summary["splits"]
    assert len({name for name, _ in rows}) == len(rows)
    kept = folder.membership()
    assert {split: len(part) for split, part in kept.splits.items()} == summary["splits"]


def test_a_run_of_0_1_0_goes_on_with_columns_as_they_were(tmp_path, monkeypatch, capsys):
    """That version took no offsets from columns, and kept no splits."""
    rows = [[f"{1_700_000_000 + i}", f"{i % 7}", f"{10_000_000 + i % 9}"] for i in range(60)]
    write(tmp_path / "t.csv", ["time", "a", "y"], rows)
    text = "task: regression\ndata: {name: csv, file: t.csv, target: y}\nmodel: {name: linear}\n"
    (tmp_path / "t.yaml").write_text(f"{text}optimizer: {{name: adam, lr: 0.01}}\n{SETTINGS}\n")
    with monkeypatch.context() as then:
        then.setattr("mlcli.data.sources.arrays.large_offsets", lambda values: np.zeros(values.shape[1:]))
        train.run(tmp_path / "t.yaml", [], name=None, resume=None, root=tmp_path / "runs")
    run = open_run("t", tmp_path / "runs")
    for file in run.path.glob("splits.*"):
        file.unlink()
    train.run(None, ["train.epochs=2"], name=None, resume="t", root=tmp_path / "runs")
    assert run.status()["state"] == "finished"
    assert "the samples are the same cannot be checked" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("split", ["train", "test"])
def test_sorted_and_longer_tables_are_measured_as_before(place, capsys, split):
    before = measured(place, capsys, "table", split=split)
    assert before["notes"] == []
    header, rows = read(place / "t.csv")
    added = [["9", "9", "9", "9", "z", "k1"], ["8", "8", "8", "8", "a", "k0"]]
    write(place / "t.csv", header[::-1], [row[::-1] for row in [*added, *sorted(rows, key=lambda row: row[1])]])
    after = measured(place, capsys, "table", split=split)
    assert (after["samples"], after["metrics"]) == (before["samples"], pytest.approx(before["metrics"]))
    assert "2 samples are new and in no split of the run; mlcli evaluate" in after["notes"][0]
    assert after["changes"]["new"] == 2
    if split == "test":
        assert "would have counted" in after["notes"][1]


def test_what_is_lost_or_labelled_otherwise_is_counted(place, capsys):
    folder = open_run("table", place.parent / "runs")
    lines = [int(name.rpartition(":")[2]) for name, split in read(folder.path / "splits.csv")[1] if split == "test"]
    header, rows = read(place / "t.csv")
    rows[lines[0] - 2][-1] = {"k0": "k1", "k1": "k0"}[rows[lines[0] - 2][-1]]
    del rows[lines[1] - 2]
    write(place / "t.csv", header, rows)
    result = measured(place, capsys, "table")
    assert result["samples"] == len(lines) - 1
    assert result["changes"]["lost"] == result["changes"]["relabelled"] == {"test": 1}
    assert result["notes"][:2] == [
        f"1 of {len(lines)} test samples are gone",
        f"1 of {len(lines)} test samples are labelled otherwise now",
    ]


def test_another_table_is_not_the_run_s(place, capsys):
    header, rows = read(place / "t.csv")
    write(place / "t.csv", header, [[f"{number}", *row[1:]] for number, row in enumerate(rows)])
    with pytest.raises(DataError, match="none of the run's 80 samples is among the 80") as error:
        measured(place, capsys, "table")
    assert "--on DATA" in error.value.fix
    write(place / "u.csv", header, [[f"{number}", *row[1:]] for number, row in enumerate(rows)])
    result = measured(place, capsys, "table", f"data.file={place / 'u.csv'}")
    assert result["samples"] == 24
    assert "--on DATA" in result["notes"][0]


def test_files_added_renamed_and_given_to_another_class(place, capsys):
    before = measured(place, capsys, "photos")
    for number in range(6):  # found by contents wherever they lie
        (place / f"photos/cat/{2 * number}.png").rename(place / f"photos/cat/a{number}.png")
    Image.new("RGB", (32, 32), "red").save(place / "photos/dog/new.png")
    after = measured(place, capsys, "photos")
    assert (after["samples"], after["metrics"]) == (before["samples"], pytest.approx(before["metrics"]))
    assert after["changes"]["new"] == 1
    assert not after["changes"]["lost"]
    (place / "photos/cat/a0.png").rename(place / "photos/dog/a0.png")
    assert sum(measured(place, capsys, "photos")["changes"]["relabelled"].values()) == 1
    shutil.move(place / "photos", place / "elsewhere")
    moved = measured(place, capsys, "photos", f"data.root={place / 'elsewhere'}")
    shutil.move(place / "elsewhere", place / "photos")
    assert moved["samples"] == before["samples"]


def test_boxes_are_found_again_and_compared(place, capsys):
    before = measured(place, capsys, "boxes")
    header, rows = read(place / "b.csv")
    rows.sort(key=lambda row: row[5])
    write(place / "b.csv", header, rows)
    after = measured(place, capsys, "boxes")
    assert after["notes"] == before["notes"]
    assert (after["samples"], after["metrics"]) == (before["samples"], pytest.approx(before["metrics"]))
    write(place / "b.csv", header, [[*row[:5], int(row[5]) + 1] for row in rows])
    with pytest.raises(DataError, match="labelled otherwise"):
        resumed(place, "boxes")


def test_a_split_column_that_changed_does_not_move_samples(place, capsys):
    before = measured(place, capsys, "given")
    header, rows = read(place / "g.csv")
    write(place / "g.csv", header, [[*row[:5], {"train": "test"}.get(row[5], "train")] for row in rows])
    after = measured(place, capsys, "given")
    assert (after["samples"], after["metrics"]) == (before["samples"], pytest.approx(before["metrics"]))
    assert after["changes"]["moved"] == {"train": 40, "val": 20, "test": 20}
    with pytest.raises(DataError, match="in another split by now"):
        resumed(place, "given")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [[*row[:4], "0.5", row[5]] if row[5] == "test" else row for row in rows], "labelled otherwise"),
        (lambda rows: [["0", *row[1:]] if row[5] == "val" else row for row in rows], "20 of 20 val samples are gone"),
        (lambda rows: rows[1:], "1 of 40 train samples are gone"),
        (lambda rows: [*rows, ["1", "2", "3", "4", "5", "test"]], "1 sample is new"),
    ],
    ids=["targets", "inputs", "removed", "added"],
)
def test_no_run_goes_on_with_other_data(place, change, message):
    header, rows = read(place / "g.csv")
    write(place / "g.csv", header, change(rows))
    with pytest.raises(DataError, match=message):
        resumed(place, "given")


@pytest.mark.parametrize("run", ["given", "table"])
def test_a_run_goes_on_with_sorted_data_as_if_nothing_had_happened(place, run):
    resumed(place, run)
    copies = place.parent / "copies"
    expected = open_run(run, copies).status()["scores"]
    file = place / {"given": "g.csv", "table": "t.csv"}[run]
    header, rows = read(file)
    write(file, header, sorted(rows))
    resumed(place, run)
    assert open_run(run, copies).status()["scores"] == expected


def test_all_of_a_new_table_is_measured(place, capsys):
    header, rows = read(place / "t.csv")
    split_of = dict(read(open_run("table", place.parent / "runs").path / "splits.csv")[1])
    trained = [row for line, row in enumerate(rows, 2) if split_of[f"{place / 't.csv'}:{line}"] == "train"][:7]
    new = [[f"{number}", "1", "2", "3", "a", "k1"] for number in range(5)]
    other = ["1", "1", "1", "1", "a", "k9"]
    write(place / "new.csv", ["index", *header], [["0", *row] for row in [*trained, *new, other]])
    result = measured(place, capsys, "table", on=place / "new.csv")
    assert (result["split"], result["samples"], result["on"]) == ("new", 12, str(place / "new.csv"))
    assert "1 sample is of classes that the model does not know, and left out: 'k9'" in result["notes"]
    write(place / "new.csv", header, [*trained, *new])
    result = measured(place, capsys, "table", on=place / "new.csv")
    assert result["notes"] == ["7 of these samples were trained on, and say little about new ones"]
    for cell, name in (("k7", "class"), ("", "missing")):
        write(place / "new.csv", header, [[*row[:-1], cell] for row in new])
        with pytest.raises(DataError, match=name):
            measured(place, capsys, "table", on=place / "new.csv")
    with pytest.raises(ConfigError, match="rows of a table"):
        measured(place, capsys, "table", on=place)
    with pytest.raises(DataError, match="no such file"):
        measured(place, capsys, "table", on=place / "nowhere.csv")
    with pytest.raises(ConfigError, match="all of the data"):
        measured(place, capsys, "table", on=place / "t.csv", split="val")


def test_all_of_new_numbers_are_measured(place, capsys):
    whole = measured(place, capsys, "given", on=place / "g.csv")
    assert whole["samples"] == 80
    parts = [measured(place, capsys, "given", split=split) for split in ("train", "val", "test")]
    expected = sum(part["samples"] * part["metrics"]["mae"] for part in parts) / 80
    assert whole["metrics"]["mae"] == pytest.approx(expected)


def test_all_of_new_photographs_are_measured(place, capsys):
    for name in ("dog", "cow"):
        (place / "new/test" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 50), (50 * number, 9, 9)).save(place / f"new/test/{name}/{number}.png")
    shutil.copy(place / "photos/cat/0.png", place / "new/test/dog/copy.png")
    result = measured(place, capsys, "photos", on=place / "new/test")
    assert result["samples"] == 4
    assert "'cow'" in " ".join(result["notes"])
    assert sum(map(sum, result["confusion"])) == sum(result["confusion"][1]) == 4
    write(place / "new.csv", ["path", "label"], [[f"new/test/dog/{number}.png", "cat"] for number in range(3)])
    assert measured(place, capsys, "photos", on=place / "new.csv")["samples"] == 3


def test_all_of_new_boxes_are_measured(place, capsys):
    header, rows = read(place / "b.csv")
    write(place / "new.csv", header, [[f"photos/{row[0]}", *row[1:]] for row in rows[:9]])
    result = measured(place, capsys, "boxes", on=place / "new.csv")
    assert result["samples"] == 9
    write(place / "other.csv", header, [*rows[:5], [rows[0][0], "cow", 1, 1, 9, 9]])  # relative to the run's root
    result = measured(place, capsys, "boxes", on=place / "other.csv")
    assert result["samples"] == 5
    assert "1 object is of classes that the model does not know, and left out: 'cow'" in result["notes"]


def test_categories_never_seen_are_said_and_counted(place, capsys):
    rows = [["1", "2", "3", "4", cell] for cell in ("a", "zebra", "", "b", "A")]
    write(place / "new.csv", ["a", "b", "c", "d", "e"], rows)
    predict.run("table", [place / "new.csv"], output=place / "answers.csv", root=place.parent / "runs")
    assert "2 rows have categories that training never saw: see 'unknown'" in capsys.readouterr().out
    header, answers = read(place / "answers.csv")
    assert [answer[header.index("unknown")] for answer in answers] == ["", "e=zebra", "", "", "e=A"]


def test_a_run_that_kept_no_splits_says_so(place, capsys):
    copies = place.parent / "old"
    shutil.copytree(place.parent / "runs", copies, dirs_exist_ok=True)
    folder = open_run("given", copies).path
    (folder / "splits.safetensors").write_bytes(b"12345678 no hashes")
    with pytest.raises(CheckpointError, match="list of splits cannot be read"):
        evaluate.run("given", root=copies)
    (folder / "splits.safetensors").unlink()
    capsys.readouterr()
    evaluate.run("given", root=copies)
    assert "cannot be checked" in capsys.readouterr().out
    train.run(None, ["train.epochs=2"], name=None, resume="given", root=copies)
    assert "cannot be checked" in capsys.readouterr().out
    assert not (folder / "splits.safetensors").exists()
