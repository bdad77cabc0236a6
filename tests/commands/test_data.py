"""`mlcli data`: the page, the files and the exit code of a check; what convert hands on and refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mlcli.commands.data import run_check, run_convert
from mlcli.errors import ConfigError, ExitCode
from tests.data.check_images import write_clean

DRAWS = True

YAML = "task: classification\ndata: {name: folder, root: images}\nmodel: {name: linear}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A clean folder of images with its YAML beside it."""
    here = tmp_path_factory.mktemp("check")
    write_clean(here / "images")
    (here / "pets.yaml").write_text(YAML)
    return here


def test_a_clean_set_is_told_so_and_ends_in_the_next_command(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert run_check(Path("pets.yaml"), ["train.epochs=3"]) is ExitCode.OK
    page = capsys.readouterr().out
    assert "Nothing to do: no errors, no warnings." in page
    assert page.rstrip().endswith("mlcli train pets.yaml train.epochs=3")
    assert "120 train · 36 val · 36 test · 3 classes" in page
    assert "runs/data-check/pets/classes.png" in page
    assert Image.open("runs/data-check/pets/classes.png").width > 500
    report = json.loads(Path("runs/data-check/pets/report.json").read_text())
    assert report["findings"] == []
    assert report["overrides"] == ["train.epochs=3"]


def test_an_error_is_exit_code_4_and_mending_it_removes_the_old_picture(folder, capsys):
    copy = folder / "images/test/ant/copy.png"
    copy.write_bytes((folder / "images/train/ant/000.png").read_bytes())
    root = folder / "elsewhere"
    assert run_check(folder / "pets.yaml", [], root=root) is ExitCode.DATA
    page = capsys.readouterr().out
    assert page.index("\nerrors\n") < page.index("1 image of test is also in train (2.7 %)")
    assert "train/ant/000.png = test/ant/copy.png" in page
    assert "1 error: what a model learns from this, or its score, cannot be trusted." in page
    assert (root / "data-check/pets/duplicates.png").exists()
    copy.unlink()
    assert run_check(folder / "pets.yaml", [], root=root) is ExitCode.OK
    assert not (root / "data-check/pets/duplicates.png").exists()


def test_json_holds_every_place_that_the_page_cuts_off(folder, capsys):
    bad = [folder / f"images/train/bee/bad-{number}.png" for number in range(5)]
    for path in bad:
        path.write_bytes(b"no image")
    try:
        assert run_check(folder / "pets.yaml", [], root=folder / "more") is ExitCode.DATA
        assert "and 2 more" in capsys.readouterr().out
        assert run_check(folder / "pets.yaml", [], as_json=True, root=folder / "more") is ExitCode.DATA
    finally:
        for path in bad:
            path.unlink()
    report = json.loads(capsys.readouterr().out)
    unreadable = next(finding for finding in report["findings"] if finding["kind"] == "unreadable")
    assert [place.split(" ")[0] for place in unreadable["places"]] == [f"train/bee/bad-{n}.png" for n in range(5)]
    assert unreadable["severity"] == "error"
    assert report == json.loads((folder / "more/data-check/pets/report.json").read_text()) | {
        "pictures": report["pictures"]
    }


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_tables_need_no_pictures(task, tmp_path, capsys):
    name = {"classification": "iris", "regression": "diabetes"}[task]
    (tmp_path / "table.yaml").write_text(f"task: {task}\ndata: {{name: {name}}}\nmodel: {{name: linear}}\n")
    assert run_check(tmp_path / "table.yaml", [], root=tmp_path) is ExitCode.OK
    assert "Nothing to do" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "data-check/table").glob("[!.]*")] == ["report.json"]


def test_annotated_pictures_are_checked_and_converted(tmp_path, capsys):
    (tmp_path / "scenes.yaml").write_text(
        "task: detection\ndata: {name: scenes, images: 100, image_size: 96}\nmodel: {name: yolo}\n"
    )
    assert run_check(tmp_path / "scenes.yaml", [], root=tmp_path) is ExitCode.OK
    assert "100 train · 20 val · 20 test" in capsys.readouterr().out
    assert Image.open(tmp_path / "data-check/scenes/objects.png").width > 500
    run_convert(tmp_path / "scenes.yaml", tmp_path / "converted", "voc")
    assert "100 pictures" in capsys.readouterr().out
    assert len(list((tmp_path / "converted").rglob("*.xml"))) == 140


def test_what_cannot_be_checked_or_converted_is_refused(folder):
    with pytest.raises(ConfigError, match="which YAML"):
        run_check(None, [])
    with pytest.raises(ConfigError, match="only annotated pictures"):
        run_convert(folder / "pets.yaml", folder / "out", "coco")
