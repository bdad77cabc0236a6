"""`mlcli runs` on real runs and on folders that are broken."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mlcli.commands import runs
from mlcli.engine.run import list_runs, open_run
from mlcli.errors import CheckpointError, OutputError

DRAWS = True


@pytest.fixture
def broken_root(runs_root, tmp_path) -> Path:
    """The real runs beside four folders that are hardly any."""
    root = tmp_path / "runs"
    shutil.copytree(runs_root, root)
    for name, status in {"cut": '{"state": "fini', "list": "[]", "typed": '{"state": "x", "epoch": "many"}'}.items():
        (root / name / "20200101-000000-aaaa").mkdir(parents=True)
        (root / name / "20200101-000000-aaaa" / "status.json").write_text(status)
    (root / "begun" / "20200101-000000-aaaa" / "checkpoints").mkdir(parents=True)
    (root / "notes").mkdir()
    return root


def test_the_table_of_runs(runs_root, capsys):
    runs.run_list(runs_root)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "started", "epochs", "best", "test", "time"]
    assert len(lines) == 1 + 4
    status = open_run("digits", runs_root).status()
    (line,) = (line for line in lines if line.startswith("digits/"))
    assert "finished" in line
    assert "2/2" in line
    assert f"val accuracy {status['best']['value']:.4f}" in line
    assert f"  {status['scores']['test']['accuracy']:.4f}  " in line


def test_json_has_every_score(runs_root, capsys):
    runs.run_list(runs_root, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [entry["run"] for entry in listed] == [run.name for run in list_runs(runs_root)]
    scores = next(entry["scores"] for entry in listed if entry["run"].startswith("diabetes/"))
    assert set(scores["test"]) == {"loss", "mae", "rmse", "r2"}


def test_broken_folders_are_listed_as_unreadable(broken_root, capsys):
    runs.run_list(broken_root)
    page = capsys.readouterr().out
    table = page.splitlines()[: 1 + 8]
    assert sum("unreadable" in line for line in table) == 4
    assert sum("finished" in line for line in table) == 4
    assert "begun/20200101-000000-aaaa: " in page
    assert "notes" not in page


def test_no_runs_yet(tmp_path, capsys):
    runs.run_list(tmp_path / "runs")
    assert "no runs in" in capsys.readouterr().out


def test_comparing_shows_only_what_differs(runs_root, capsys):
    runs.run_compare(["digits", "perceptron"], runs_root)
    page = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in page.splitlines()}
    assert rows["model.name"].split()[1:] == ["mlp", "linear"]
    assert rows["model.hidden"].split()[1:] == ["[32]", "-"]
    assert rows["train.epochs"].split()[1:] == ["2", "1"]
    assert "data.name" not in rows
    assert "train.batch_size" not in rows
    accuracies = [open_run(name, runs_root).status()["scores"]["test"]["accuracy"] for name in ("digits", "perceptron")]
    assert rows["test accuracy"].split()[2:] == [f"{value:.4f}" for value in accuracies]


def test_comparison_as_json(runs_root, capsys):
    runs.run_compare(["digits", "perceptron"], runs_root, as_json=True)
    compared = json.loads(capsys.readouterr().out)
    assert compared["config"]["optimizer.lr"] == [0.1, 0.01]
    assert [entry["state"] for entry in compared["runs"]] == ["finished", "finished"]
    assert Path(compared["picture"]).is_file()


def test_the_curves_are_drawn(runs_root, tmp_path, capsys):
    runs.run_compare(["digits", "perceptron"], runs_root)
    picture = runs_root / "compare-digits-perceptron.png"
    assert capsys.readouterr().out.endswith(f"\n\ncurves: {picture}\n")
    with Image.open(picture) as image:
        assert image.width > 1000
    runs.run_compare(["digits", "wine"], runs_root, picture=tmp_path / "mine.png")
    assert f"curves: {tmp_path / 'mine.png'}" in capsys.readouterr().out
    assert not (runs_root / "compare-digits-wine.png").exists()
    picture.unlink()


def test_a_picture_that_cannot_be_written(runs_root, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        runs.run_compare(["digits"], runs_root, picture=tmp_path / "no" / "such" / "folder.png")


def test_runs_of_different_tasks_can_be_compared(runs_root, capsys):
    runs.run_compare(["digits", "diabetes"], runs_root)
    page = capsys.readouterr().out
    assert "test rmse" in page
    assert "test accuracy" in page


def test_a_name_alone_stands_for_its_newest_runs(broken_root, capsys):
    first = open_run("digits", broken_root).path
    second = first.with_name("99991231-235959-ffff")
    shutil.copytree(first, second)
    (second / "resolved.yaml").write_text((second / "resolved.yaml").read_text().replace("lr: 0.1", "lr: 0.3"))
    runs.run_compare(["digits"], broken_root)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [f"digits/{first.name}", f"digits/{second.name}"]
    assert lines[1].split() == ["optimizer.lr", "0.1", "0.3"]
    runs.run_compare(["perceptron"], broken_root)
    assert "(no difference in config)" in capsys.readouterr().out


def test_comparing_needs_readable_runs(broken_root):
    with pytest.raises(CheckpointError, match="'nothing' is not a run"):
        runs.run_compare(["digits", "nothing"], broken_root)
    with pytest.raises(CheckpointError):
        runs.run_compare(["digits", "typed"], broken_root)
