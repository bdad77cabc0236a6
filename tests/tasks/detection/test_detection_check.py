"""The doctor on annotated pictures: faults of annotations and oddities of pictures in one pass."""

from pathlib import Path

import numpy as np
import pytest

from mlcli.data.check.examination import Examination, verdict
from mlcli.data.finding import Finding
from mlcli.tasks.detection.data.check import examine
from mlcli.tasks.detection.data.config import BoxCsv, Scenes
from mlcli.tasks.detection.data.strides import fitting_strides, misfits
from tests.data.check_images import picture

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax,split"


def found(examination: Examination, kind: str) -> Finding:
    matching = [finding for finding in examination.findings if finding.kind == kind]
    assert len(matching) == 1, [finding.kind for finding in examination.findings]
    return matching[0]


@pytest.fixture
def boxes(tmp_path) -> list[str]:
    """Lines for 40 pictures with a box each; the pictures are beside."""
    lines = []
    for number in range(40):
        picture(number % 2, number, (64, 48)).save(tmp_path / f"{number}.png")
        split = "test" if number >= 28 else "train"
        lines.append(f"{number}.png,64,48,{('ant', 'bee')[number % 2]},8,6,50,40,{split}")
    return lines


def check(folder: Path, lines: list[str], **options) -> Examination:
    (folder / "boxes.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return examine(BoxCsv(name="box_csv", file=folder / "boxes.csv", image_size=64, val=0.0, **options))


def test_clean_annotations_raise_no_alarm(tmp_path, boxes):
    examination = check(tmp_path, boxes)
    assert [finding for finding in examination.findings if finding.severity != "note"] == []
    assert examination.figures["objects"]["ant"] == {"train": 14, "test": 6}
    assert [sheet.name for sheet in examination.sheets] == ["objects"]


def test_scenes_raise_no_alarm():
    examination = examine(Scenes(name="scenes", images=120, image_size=96))
    assert [finding.kind for finding in examination.findings if finding.severity != "note"] == []


def test_faults_and_oddities_are_found_in_one_pass(tmp_path, boxes):
    boxes[3] = "3.png,64,48,bee,50,6,8,40,train"
    boxes[4] = "4.png,64,48,ant,100,100,120,120,train"
    boxes[5] = "5.png,64,48,bee,8,6,8,40,train"
    (tmp_path / "6.png").write_bytes(b"no image")
    (tmp_path / "30.png").write_bytes((tmp_path / "7.png").read_bytes())
    picture(0, 8, (64, 48)).save(tmp_path / "31.png", compress_level=0)  # other bytes, the same pixels
    examination = check(tmp_path, boxes)
    assert "boxes.csv:5" in found(examination, "swapped-corners").places[0]
    assert found(examination, "outside").severity == "error"
    assert found(examination, "degenerate-box").severity == "error"
    assert found(examination, "unreadable").places[0].startswith("6.png")
    across = found(examination, "duplicates-across-splits")
    assert across.places == ("7.png (train) = 30.png (test)", "8.png (train) = 31.png (test)")
    errors = [finding.kind for finding in examination.findings if finding.severity == "error"]
    assert len(errors) == len({*errors}) == 5, "each once, and the refusal is none of its own"
    assert "refused" not in errors
    assert not any("data.duplicates" in finding.fix for finding in examination.findings), "there is no such key"
    assert [sheet.name for sheet in examination.sheets] == ["duplicates", "objects"]
    assert "training refuses this data set" in verdict(examination)


def test_faults_are_told_once(tmp_path, boxes):
    boxes[3] = "3.png,64,48,bee,50,6,8,40,train"
    examination = check(tmp_path, boxes)
    assert [finding.kind for finding in examination.findings if finding.severity == "error"] == ["swapped-corners"]
    assert verdict(examination) == "1 error and 1 note: training refuses this data set as it is."


def test_a_copy_that_training_refuses_is_an_error_by_its_name(tmp_path, boxes):
    (tmp_path / "9.png").write_bytes((tmp_path / "7.png").read_bytes())
    examination = check(tmp_path, boxes)
    assert [finding.kind for finding in examination.findings if finding.severity == "error"] == ["duplicate-image"]
    assert examination.refuses


def test_faults_that_training_mends_are_warnings(tmp_path, boxes):
    boxes[3] = "3.png,64,48,bee,50,6,8,40,train"
    examination = check(tmp_path, boxes, on_invalid="fix")
    swapped = found(examination, "swapped-corners")
    assert swapped.severity == "warning"
    assert "fixes 1 and leaves out 0" in swapped.fix
    assert examination.count("error") == 0


def test_objects_too_small_for_the_input_are_a_warning(tmp_path, boxes):
    for number in range(6):
        boxes.append(f"{number}.png,64,48,ant,1,1,6,40,train")
    small = found(check(tmp_path, boxes), "objects-small")
    assert small.severity == "warning"
    assert len(small.places) == 6
    assert small.fix == "'model.strides=[4,8]' would fit, or a larger data.image_size"


@pytest.mark.parametrize(
    ("side", "strides", "kind", "fix"),
    [
        (6, (8, 16), "small", "'model.strides=[4,8]' would fit, or a larger data.image_size"),
        (3, (4, 8), "small", "a larger data.image_size"),
        (200, (4, 8), "large", "'model.strides=[8,16,32]' would fit, or a smaller data.image_size"),
        (600, (16, 32), "large", "a smaller data.image_size"),
        (30, (8, 16), "", ""),
        (200, (8, 16, 32), "", ""),
    ],
)
def test_objects_that_the_maps_do_not_fit_are_named_with_strides_that_do(side, strides, kind, fix):
    sides = np.full((40, 2), 30.0)
    sides[::4] = side
    found = misfits(sides, strides)
    assert [(one.kind, one.fix) for one in found] == ([(kind, fix)] if kind else [])
    assert all(len(one.rows) == 10 for one in found)
    assert misfits(sides, fitting_strides(sides)) == [] or side in (3, 600)


def test_no_annotations_are_one_finding(tmp_path):
    examination = examine(BoxCsv(name="box_csv", file=tmp_path / "none.csv"))
    assert [finding.kind for finding in examination.findings] == ["refused"]
