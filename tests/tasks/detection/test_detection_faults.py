"""Faulty annotations: every one is found in one pass, with its place, and dropped or mended as asked."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.contents import AnnotationFault
from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
from mlcli.tasks.detection.data.build import build_source, read_annotations
from mlcli.tasks.detection.data.config import BoxCsv, Coco, Voc, YoloTxt
from mlcli.tasks.detection.masks import decode, encode_rle, turned
from tests.tasks.detection import sheets

SMALL: dict[str, Any] = {"image_size": 64, "val": 0.0}


def faults_of(config) -> list[AnnotationFault]:
    return CheckedAnnotations(read_annotations(config)).faults


def found(config) -> set[tuple[str, str]]:
    """Kind and the last part of where each fault is."""
    return {(fault.kind, fault.where.rpartition("/")[2]) for fault in faults_of(config)}


# --- many faults at once ----------------------------------------------------------------------------------------------


@pytest.fixture
def broken_coco(tmp_path):
    """A data set with every kind of fault, and the places where they should be found."""
    sheets.draw(tmp_path, count=12)
    content = sheets.coco_content(count=12)
    images, objects = content["images"], content["annotations"]
    good = len(objects)
    places = set()

    def image(kind: str, number: int, **changes) -> None:
        images[number] |= changes
        places.add((kind, f"a.json: images[{number}] (id {images[number]['id']})"))

    def add(kind: str, box, **changes) -> None:
        objects.append({"id": 1000 + len(objects), "image_id": 110, "category_id": 7, "bbox": box} | changes)
        places.add((kind, f"a.json: annotations[{len(objects) - 1}] (id {objects[-1]['id']})"))

    image("unreadable", 6, file_name="gone.png")
    (tmp_path / "p7.png").write_bytes(b"")
    image("unreadable", 7)
    (tmp_path / "p8.png").write_text("<!doctype html>")
    image("unreadable", 8)
    image("size_mismatch", 9, width=128, height=96)  # of a copy twice as large
    image("size_mismatch", 10, width=99, height=30)
    (tmp_path / "p11.png").write_bytes((tmp_path / "p5.png").read_bytes())
    image("duplicate_image", 11)
    images.append({"id": 100, "file_name": "p0.png", "width": 60, "height": 40})
    places.add(("duplicate_id", "a.json: images[12] (id 100)"))
    images.append({"id": "x", "file_name": "p0.png"})
    places.add(("malformed", "a.json: images[13]"))

    add("not_finite", [float("nan"), 1, 5, 5])
    add("not_finite", [1, float("inf"), 5, 5])
    add("swapped_corners", [20, 20, -10, 5])
    add("degenerate_box", [3, 3, 0, 8])
    add("degenerate_box", [3, 3, 8, 0])
    add("outside", [200, 1, 5, 5])
    add("outside", [-9, 1, 5, 5])
    add("partly_outside", [35, 1, 12, 5])
    add("partly_outside", [-2.5, 1, 12, 5])
    add("unknown_class", [1, 1, 5, 5], category_id=3)
    add("duplicate_box", objects[2]["bbox"], category_id=20)
    add("duplicate_id", [1, 1, 7, 7], id=1)
    add("unknown_image", [1, 1, 5, 5], image_id=12345)
    add("malformed", [1, 1, 5])
    add("malformed", ["1 px", 1, 5, 5])
    add("malformed", [1, 1, 5, 5], iscrowd="perhaps")
    add("bad_mask", [1, 2, 5, 5], segmentation=[[1, 2, 3, 4]])
    add("bad_mask", [1, 3, 5, 5], segmentation={"size": [9, 9], "counts": [81]})
    add("bad_mask", [1, 4, 5, 5], segmentation="polygon")
    content["categories"].append({"id": 7, "name": "cow"})
    places.add(("duplicate_id", "a.json: categories[2]"))
    objects.append(3)
    places.add(("malformed", f"a.json: annotations[{len(objects) - 1}]"))
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path, places, good


def config_of(broken, **options) -> Coco:
    root = broken[0]
    return Coco(**({"name": "coco", "root": root, "train_file": root / "a.json"} | SMALL | options))


def test_all_are_found_in_one_pass(broken_coco):
    places = broken_coco[1]
    assert len(places) >= 27
    assert len({kind for kind, _ in places}) >= 14
    assert found(config_of(broken_coco)) == places


def test_error_counts_them_and_quotes_the_first(broken_coco):
    places = broken_coco[1]
    with pytest.raises(DataError) as error:
        build_source(config_of(broken_coco))
    kinds = Counter(kind for kind, _ in places)
    assert error.value.what.startswith(f"{len(places)} faults")
    assert all(f"{count} {kind}" in error.value.what for kind, count in kinds.items())
    assert f"and {len(places) - 3} more" in error.value.where
    assert "on_invalid=fix" in error.value.fix
    assert len(str(error.value).splitlines()) <= 5


def test_fix_mends_what_can_be_mended(broken_coco):
    source = build_source(config_of(broken_coco, on_invalid="fix"))
    records = source.splits["train"]
    assert [int(i) for i in records.ids] == [100, 110, 120, 130, 140, 150, 190], "6, 7, 8, 10 and 11 are gone"
    boxes = [tuple(box) for box in records.boxes_of(1).tolist()]
    assert boxes == [
        (2, 3, 38, 41),
        (10, 20, 20, 25),  # corners swapped back
        (35, 1, 40, 6),  # cut
        (0, 1, 9.5, 6),
        (1, 1, 8, 8),  # the same id as another
        (1, 2, 6, 7),  # three without their masks
        (1, 3, 6, 8),
        (1, 4, 6, 9),
    ]
    scaled = np.array(sheets.BOXES[3], dtype=float) * (64 / 128)
    assert np.allclose(np.sort(records.boxes_of(6), axis=0), np.sort(scaled, axis=0))
    assert tuple(records.sizes[6]) == (64, 48)
    assert records.segmentations is None
    assert any("faults in the annotations" in note for note in source.notes)
    assert f"{len(broken_coco[1])} faults" in " ".join(source.notes)


def test_drop_leaves_only_what_was_right(broken_coco):
    source = build_source(config_of(broken_coco, on_invalid="drop"))
    records = source.splits["train"]
    assert [int(i) for i in records.ids] == [100, 110, 120, 130, 140, 150]
    assert [tuple(box) for box in records.boxes_of(1).tolist()] == [(2, 3, 38, 41), (1, 1, 8, 8)]


# --- one kind at a time ----------------------------------------------------------------------------------------------


def test_no_fault_in_what_is_right(tmp_path):
    sheets.voc_folder(tmp_path)
    config = Voc(name="voc", root=tmp_path, **SMALL)
    assert faults_of(config) == []
    assert not any("fault" in note for note in build_source(config).notes)


def test_a_pixel_is_cut_without_a_word_but_counted(tmp_path):
    sheets.voc_folder(tmp_path)
    extra = sheets.xml_object((-1, 5, 20, 41), "cat")
    (tmp_path / "Annotations" / "p0.xml").write_text(sheets.xml(0, extra=extra))
    source = build_source(Voc(name="voc", root=tmp_path, **SMALL))
    assert [0, 5, 20, 40] in source.splits["train"].boxes_of(0).tolist()
    assert "1 box sticks out of the picture by a pixel at most: cut" in source.notes


VOC_FAULTS = {
    "not XML": ("<annotation><object></annotation>", ("malformed", "p1.xml:1")),
    "another root": ("<html></html>", ("malformed", "p1.xml:1")),
    "empty": ("", ("empty_file", "p1.xml")),
    "no name": (sheets.xml(1).replace("<name>dog</name>", ""), ("malformed", "p1.xml:4")),
    "no corner": (sheets.xml(1).replace("<ymax>41</ymax>", ""), ("malformed", "p1.xml:4")),
    "no number": (sheets.xml(1).replace("<ymax>41</ymax>", "<ymax>4l</ymax>"), ("malformed", "p1.xml:4")),
    "swapped": (sheets.xml(1).replace("<ymax>41</ymax>", "<ymax>1</ymax>"), ("swapped_corners", "p1.xml:4")),
    "difficult or not": (
        sheets.xml(1).replace("</name>", "</name><difficult>perhaps</difficult>"),
        ("malformed", "p1.xml:4"),
    ),
    "unknown encoding": ('<?xml version="1.0" encoding="x-none"?>' + sheets.xml(1), ("malformed", "p1.xml")),
    "another encoding": ('<?xml version="1.0" encoding="ascii"?>' + sheets.xml(1, name="é"), ("malformed", "p1.xml")),
    "a second box": (sheets.xml(1, extra=sheets.xml_object((50, 1, 60, 9), "cat")), ("outside", "p1.xml:5")),
}


@pytest.mark.parametrize(("text", "place"), VOC_FAULTS.values(), ids=VOC_FAULTS)
def test_voc_faults_have_their_line(tmp_path, text, place):
    sheets.voc_folder(tmp_path)
    (tmp_path / "Annotations" / "p1.xml").write_text(text)
    config = Voc(name="voc", root=tmp_path, **SMALL)
    assert found(config) == {place}
    build_source(config.model_copy(update={"on_invalid": "drop"}))


def test_voc_listed_but_not_annotated(tmp_path):
    sheets.voc_folder(tmp_path)
    (tmp_path / "list.csv").write_text("filename,split\np0.png,train\np9.png,train\np1.png,often\n")
    config = Voc(name="voc", root=tmp_path, split_file=tmp_path / "list.csv", **SMALL)
    assert found(config) == {("missing_annotation", "list.csv:3"), ("malformed", "list.csv:4")}


def test_csv_faults_have_their_line(tmp_path):
    sheets.draw(tmp_path)
    rows = [
        "filename,class,xmin,ymin,xmax,ymax",
        "p0.png,cat,1,1,9,9",
        "p0.png,cat,1,1,9",
        "p0.png,cat,1,1,nine,9",
        "p0.png,,1,2,9,9",
        "p0.png,cat,5,5,5,9",
        "p9.png,cat,1,1,9,9",
        "p0.png,cat,1.0,1,9,9.001",
        ",cat,1,1,9,9",
    ]
    (tmp_path / "b.csv").write_text("\n".join(rows) + "\n")
    assert found(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)) == {
        ("malformed", "b.csv:3"),
        ("malformed", "b.csv:4"),
        ("unknown_class", "b.csv:5"),
        ("degenerate_box", "b.csv:6"),
        ("unreadable", "b.csv:7"),
        ("duplicate_box", "b.csv:8"),
        ("malformed", "b.csv:9"),
    }


@pytest.mark.filterwarnings("error")
def test_yolo_faults_have_their_line(tmp_path):
    sheets.draw(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    lines = [
        "0 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 0.2",
        "2 0.5 0.5 0.3 0.2",
        "cat 0.5 0.5 0.3 0.2",
        "1 30 20 10 10",
        "1 nan 0.5 0.1 0.1",
        "1 0.95 0.5 0.3 0.1",
        "0.5 0.2 0.2 0.1 0.1",
        "1 0.1 0.1 0.4 0.1 0.4 0.4 0.1",
        "1 0.5 1e400 0.1 0.1",
    ]
    (tmp_path / "labels" / "p0.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels" / "p1.txt").write_bytes(b"\xff\xfe0")
    assert found(YoloTxt(name="yolo_txt", file=tmp_path / "data.yaml", **SMALL)) == {
        ("malformed", "p0.txt:2"),
        ("unknown_class", "p0.txt:3"),
        ("malformed", "p0.txt:4"),
        ("not_relative", "p0.txt:5"),
        ("not_finite", "p0.txt:6"),
        ("partly_outside", "p0.txt:7"),
        ("unknown_class", "p0.txt:8"),
        ("malformed", "p0.txt:9"),
        ("not_finite", "p0.txt:10"),
        ("malformed", "p1.txt"),
    }


def test_json_that_cannot_be_read(tmp_path):
    sheets.draw(tmp_path)
    config = Coco(name="coco", root=tmp_path, train_file=tmp_path / "a.json", **SMALL)
    for text, place in (
        ('{"images": [],\n "annotations": [}', ("malformed", "a.json:2")),
        ("", ("empty_file", "a.json")),
        ('{"images": []}', ("malformed", "a.json")),
        ("[" * 100_000, ("malformed", "a.json")),
    ):
        (tmp_path / "a.json").write_text(text)
        assert found(config) == {place}
        with pytest.raises(DataError):
            build_source(config)
        with pytest.raises(DataError, match="no picture with an object"):
            build_source(config.model_copy(update={"on_invalid": "drop"}))


@pytest.mark.parametrize("format", ["png", "jpg", "gif", "webp", "bmp"])
def test_cut_off_pictures_are_found_and_unusual_endings_are_not(tmp_path, format):
    names = sheets.draw(tmp_path, extension=format)
    (tmp_path / "b.csv").write_text(
        "filename,class,xmin,ymin,xmax,ymax\n" + "".join(f"{name},cat,1,1,9,9\n" for name in names)
    )
    whole = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(whole + bytes(500))  # some cameras write more behind the picture
    (tmp_path / names[2]).write_bytes((tmp_path / names[2]).read_bytes()[:-200])
    assert found(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)) == {("unreadable", "b.csv:4")}


def test_pictures_shared_by_splits_leave_training(tmp_path):
    names = sheets.draw(tmp_path)
    for copy, original in (("c0.png", names[0]), ("c1.png", names[1]), ("c2.png", names[1])):
        (tmp_path / copy).write_bytes((tmp_path / original).read_bytes())
    splits = dict.fromkeys(names, "train") | {"c0.png": "val", "c1.png": "val", "c2.png": "test"}
    rows = "".join(f"{name},cat,1,1,9,9,{split}\n" for name, split in splits.items())
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax,split\n" + rows)
    config = BoxCsv(name="box_csv", file=tmp_path / "b.csv", on_invalid="fix", **SMALL)
    assert found(config) == {("shared_image", f"b.csv:{line}") for line in (2, 3, 9)}
    left = {split: [r.name(i)[-6:] for i in range(len(r))] for split, r in build_source(config).splits.items()}
    assert left == {"train": ["p2.png", "p3.png", "p4.png", "p5.png"], "val": ["c0.png"], "test": ["c2.png"]}


def test_boxes_of_one_place_and_two_classes_are_both_kept(tmp_path):
    names = sheets.draw(tmp_path)
    rows = "".join(f"{names[0]},{name},1,1,9,9\n" for name in ("cat", "dog", "dog"))
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + rows)
    config = BoxCsv(name="box_csv", file=tmp_path / "b.csv", on_invalid="fix", **SMALL)
    assert found(config) == {("duplicate_box", "b.csv:4")}
    assert build_source(config).splits["train"].labels.tolist() == [1, 2]


def test_a_class_that_only_the_judged_pictures_have(tmp_path):
    names = sheets.draw(tmp_path)
    rows = f"{names[0]},racoon,1,1,9,9,train\n{names[1]},raccoon,1,1,9,9,val\n"
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax,split\n" + rows)
    assert found(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)) == {("unknown_class", "b.csv:3")}


# --- EXIF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_picture_turn_with_it(tmp_path, orientation):
    """The bright rectangle is where the box is, in the upright picture as Pillow turns it."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[5:15, 10:50] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    mask = pixels[..., 0] > 0
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 40, 10], "segmentation": encode_rle(mask)}
        ],
        "categories": [{"id": 1, "name": "bar"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    config = Coco(name="coco", root=tmp_path, train_file=tmp_path / "a.json", on_invalid="fix", **SMALL)
    assert [(fault.kind, fault.fixable) for fault in faults_of(config)] == [("exif_rotation", True)]
    records = build_source(config).splits["train"]
    upright = np.asarray(records.original(0))[..., 0] > 127
    rows, columns = np.flatnonzero(upright.any(1)), np.flatnonzero(upright.any(0))
    assert records.boxes_of(0)[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert tuple(records.sizes[0]) == (40, 60)
    assert np.array_equal(decode(records.segmentations[0], 60, 40), upright)
    polygon = turned([[10, 5, 50, 5, 50, 15, 10, 15]], orientation, np.array([60, 40]))
    assert np.array_equal(decode(polygon, 60, 40), upright)


def test_annotations_of_the_upright_picture_are_right(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sheets.picture(0).save(tmp_path / "a.jpg", exif=exif)
    rows = "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,60,cat,1,1,9,55\n"
    (tmp_path / "b.csv").write_text(rows)
    assert faults_of(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)) == []


def test_boxes_that_only_cutting_makes_equal_are_kept(tmp_path):
    """Two objects at an edge, one of them larger beyond it; and two of one box with different masks."""
    sheets.draw(tmp_path)
    (tmp_path / "b.csv").write_text(
        "filename,class,xmin,ymin,xmax,ymax\np0.png,cat,-1,1,9,9\np0.png,cat,-9,1,9,9\np0.png,cat,-9,1,9,9\n"
    )
    config = BoxCsv(name="box_csv", file=tmp_path / "b.csv", on_invalid="fix", image_size=64, val=0.0)
    assert build_source(config).splits["train"].boxes_xyxy.tolist() == [[0, 1, 9, 9]] * 2


def test_a_picture_whose_name_no_file_can_have_cannot_be_read(tmp_path):
    sheets.draw(tmp_path)
    rows = "filename,class,xmin,ymin,xmax,ymax\np0.png,cat,1,2,9,12\np\0.png,cat,1,2,9,12\n"
    (tmp_path / "b.csv").write_text(rows)
    config = BoxCsv(name="box_csv", file=tmp_path / "b.csv", root=tmp_path, **SMALL)
    assert {fault.kind for fault in faults_of(config)} == {"malformed", "unreadable"}
