"""The four formats as people have them: all say the same about the same pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcli.errors import ConfigError, DataError
from mlcli.tasks.detection.data.annotations.box_csv import read_box_csv, write_box_csv
from mlcli.tasks.detection.data.annotations.voc import read_voc
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import BoxCsv, Coco, Voc, YoloTxt
from mlcli.tasks.detection.masks import decode
from tests.tasks.detection import sheets

SMALL: dict[str, Any] = {"image_size": 64, "val": 0.0}


def contents(records) -> dict[str, list]:
    """By picture name its boxes and labels, sorted."""
    return {
        Path(records.name(index)).name: sorted(
            (*box, label)
            for box, label in zip(records.boxes_of(index).tolist(), records.labels_of(index).tolist(), strict=True)
        )
        for index in range(len(records))
    }


def expected(*numbers: int, shift: int = 0) -> dict[str, list]:
    return {
        f"p{n}.png": sorted(
            (box[0] - shift, box[1] - shift, box[2], box[3], label)
            for box, label in zip(sheets.BOXES[n], sheets.LABELS[n], strict=True)
        )
        for n in numbers
    }


def voc(root, **options) -> Voc:
    return Voc(**({"name": "voc", "root": root} | SMALL | options))


@pytest.fixture
def folder(tmp_path):
    sheets.voc_folder(tmp_path)
    return tmp_path


# --- Pascal VOC ------------------------------------------------------------------------------------------------------


def test_voc(folder):
    source = build_source(voc(folder))
    assert source.info.class_names == ("cat", "dog")
    assert contents(source.splits["train"]) == expected(*range(6))
    assert source.splits["train"].sizes.tolist() == [list(size) for size in sheets.SIZES]


def test_voc_splits_are_the_lists_of_its_folder(folder):
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np1  1\n\np3\n")  # some lists have a number behind the name
    (lists / "val.txt").write_text("p4\n")
    (lists / "cat_train.txt").write_text("p0 -1\n")
    splits = build_source(voc(folder, val=0.5)).splits
    assert {split: contents(records) for split, records in splits.items()} == {
        "train": expected(0, 1, 3),
        "val": expected(4),
    }
    (lists / "train.txt").rename(lists / "trainval.txt")
    assert contents(build_source(voc(folder)).splits["train"]) == expected(0, 1, 3)


@pytest.mark.parametrize("kind", ["column", "csv files", "text files"])
def test_voc_splits_from_files_elsewhere(folder, kind):
    rows = {"train": ["p0.png", "p0.png", "p3.png"], "test": ["p4.png", "p1.png"]}
    if kind == "column":
        lines = [f"{name},{split}" for split, names in rows.items() for name in names]
        (folder / "s.csv").write_text("filename,split\n" + "\n".join(lines) + "\n")
        given = folder / "s.csv"
    else:
        given = {split: folder / f"{split}.{'csv' if kind == 'csv files' else 'txt'}" for split in rows}
        for split, path in given.items():
            header = "filename,class\n" if kind == "csv files" else ""
            tail = ",cat" if kind == "csv files" else ""
            path.write_text(header + "".join(f"{name}{tail}\n" for name in dict.fromkeys(rows[split])))
    splits = build_source(voc(folder, split_file=given)).splits
    assert {split: contents(records) for split, records in splits.items()} == {
        "train": expected(0, 3),
        "test": expected(1, 4),
    }


def test_voc_counts_from_one_only_where_it_is_told(folder):
    for number in range(6):
        shifted = [(box[0] + 1, box[1] + 1, box[2], box[3]) for box in sheets.BOXES[number]]
        names = [sheets.NAMES[label - 1] for label in sheets.LABELS[number]]
        objects = "".join(map(sheets.xml_object, shifted, names))
        (folder / "Annotations" / f"p{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    assert contents(build_source(voc(folder, one_based=True)).splits["train"]) == expected(*range(6))
    assert contents(build_source(voc(folder)).splits["train"]) == expected(*range(6), shift=-1)


@pytest.mark.parametrize(("policy", "ignored"), [("ignore", 1), ("use", 0)])
def test_voc_difficult_objects(folder, policy, ignored):
    extra = sheets.xml_object((1, 1, 4, 4), "cat", "<difficult>1</difficult>")
    (folder / "Annotations" / "p2.xml").write_text(sheets.xml(2, extra=extra))
    records = build_source(voc(folder, difficult=policy)).splits["train"]
    assert records.difficult.sum() == ignored
    assert len(records.boxes_of(2)) == 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [("1", True), ("true", True), ("Yes", True), ("1.0", True)]
    + [(word, False) for word in ("0", "0.0", "false", "No", "Unspecified", "")],
)
def test_marks_are_read_by_their_meaning(folder, tmp_path, text, meant):
    extra = sheets.xml_object((1, 1, 4, 4), "cat", f"<difficult>{text}</difficult>")
    (folder / "Annotations" / "p2.xml").write_text(sheets.xml(2, extra=extra))
    assert build_source(voc(folder)).splits["train"].difficult.sum() == meant

    content = sheets.coco_content()
    content["annotations"][1] |= {"iscrowd": text, "difficult": text}
    records = build_source(coco(tmp_path / "coco", content)).splits["train"]
    assert records.crowd.sum() == records.difficult.sum() == meant


def test_voc_encodings_other_than_utf_8(folder):
    words = {"gb2312": "猫", "GBK": "貓", "gb18030": "猫", "Big5": "貓", "Shift_JIS": "猫", "EUC-JP": "猫"}
    words |= {"EUC-KR": "고양이", "windows-1252": "café", "UTF-16": "猫"}
    for number, (encoding, word) in enumerate(words.items()):
        for i in range(6):
            text = sheets.xml(i, extra=sheets.xml_object((1, 1, 4, 5 + number), word) if i == 0 else "")
            text = f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'
            (folder / "Annotations" / f"p{i}.xml").write_bytes(text.encode(encoding))
        assert set(build_source(voc(folder)).info.class_names) == {"cat", "dog", word}


def test_voc_parts_of_objects_are_not_objects(folder):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    text = sheets.xml(1).replace("<name>dog</name>", f"{part}<name>dog</name>")
    (folder / "Annotations" / "p1.xml").write_text(text)
    source = build_source(voc(folder))
    assert source.info.class_names == ("cat", "dog")
    assert contents(source.splits["train"]) == expected(*range(6))


def test_voc_pictures_by_the_name_in_the_file(folder):
    (folder / "JPEGImages" / "p1.png").rename(folder / "JPEGImages" / "other name.png")
    path = folder / "Annotations" / "p1.xml"
    path.write_text(sheets.xml(1, name="C:\\photos\\other name.png"))
    assert "other name.png" in contents(build_source(voc(folder)).splits["train"])


def test_voc_a_second_box_of_an_object_is_not_dropped_unsaid(folder):
    path = folder / "Annotations" / "p1.xml"
    text = path.read_text()
    box = text[text.index("<bndbox>") : text.index("</bndbox>") + len("</bndbox>")]
    path.write_text(text.replace(box, box + box, 1))
    with pytest.raises(DataError, match="1 malformed") as error:
        build_source(voc(folder))
    assert "more than one <bndbox>" in error.value.where


def test_voc_entities_are_refused(folder):
    bomb = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n<annotation>&b;</annotation>'
    (folder / "Annotations" / "p1.xml").write_text(bomb)
    with pytest.raises(DataError, match="1 malformed") as error:
        build_source(voc(folder))
    assert "entities" in error.value.where


# --- COCO ------------------------------------------------------------------------------------------------------------


def coco(root, content: dict, **options) -> Coco:
    sheets.draw(root)
    (root / "a.json").write_text(json.dumps(content))
    return Coco(**({"name": "coco", "root": root, "train_file": root / "a.json"} | SMALL | options))


def test_coco(tmp_path):
    source = build_source(coco(tmp_path, sheets.coco_content()))
    assert source.info.class_names == ("cat", "dog"), "by id, whatever their order"
    assert source.info.preparation["category_ids"] == [7, 20]
    records = source.splits["train"]
    assert contents(records) == expected(*range(6))
    assert records.ids.tolist() == [100, 110, 120, 130, 140, 150]


def test_coco_splits_keep_the_classes_of_the_first(tmp_path):
    val = sheets.coco_content(count=1)
    val["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    for annotation in val["annotations"]:
        annotation["category_id"] = {7: 2, 20: 1}[annotation["category_id"]]
    content = sheets.coco_content()
    content["images"] = content["images"][1:]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 100]
    (tmp_path / "v.json").write_text(json.dumps(val))
    splits = build_source(coco(tmp_path, content, val_file=tmp_path / "v.json")).splits
    assert contents(splits["val"]) == expected(0)
    assert contents(splits["train"]) == expected(*range(1, 6))


def test_coco_crowds_and_masks(tmp_path):
    from faster_coco_eval.core import mask as codec

    content = sheets.coco_content()
    solid = np.zeros((40, 60), dtype=np.uint8, order="F")
    solid[6:30, 5:25] = 1
    code = codec.encode(solid)
    counts = [5 * 40 + 6, *[24, 16] * 19, 24, 40 * 35 + 10]
    content["annotations"][0]["segmentation"] = [[5, 6, 25, 6, 25, 30, 5, 30]]
    content["annotations"][0]["area"] = 477.5
    content["annotations"][1] |= {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": counts}}
    text = {"size": [40, 60], "counts": code["counts"].decode()}
    content["annotations"].append(content["annotations"][0] | {"id": 99, "bbox": [5, 6, 21, 24], "segmentation": text})
    records = build_source(coco(tmp_path, content)).splits["train"]
    assert records.crowd.tolist()[:3] == [False, True, False]
    assert records.area[0] == pytest.approx(477.5)
    assert records.area[1] == 28 * 16, "of the box where the file says nothing"
    for t in range(3):
        assert np.array_equal(decode(records.segmentations[t], 40, 60), solid.astype(bool))
    assert records.segmentations[3] is None


# --- YOLO ------------------------------------------------------------------------------------------------------------


def yolo(root: Path, *, names="[cat, dog]", train="images/train", extra="", path="", **options) -> YoloTxt:
    sheets.draw(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for number, (width, height) in enumerate(sheets.SIZES):
        lines = [
            f"{label - 1} {(a + c) / 2 / width} {(b + d) / 2 / height} {(c - a) / width} {(d - b) / height}\n"
            for (a, b, c, d), label in zip(sheets.BOXES[number], sheets.LABELS[number], strict=True)
        ]
        if lines:  # a picture without objects may have no text at all
            (root / "labels" / "train" / f"p{number}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"{path}train: {train}\nnames: {names}\n{extra}")
    return YoloTxt(name="yolo_txt", file=root / "data.yaml", **SMALL, **options)


def rounded(found: dict[str, list]) -> dict[str, list]:
    return {name: [tuple(round(x, 3) for x in row) for row in rows] for name, rows in found.items()}


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}"])
def test_yolo(tmp_path, names):
    source = build_source(yolo(tmp_path, names=names, extra="nc: 2\ndownload: https://example.org/x.zip\n"))
    assert source.info.class_names == ("cat", "dog")
    assert rounded(contents(source.splits["train"])) == expected(*range(6))


@pytest.mark.parametrize(
    ("train", "path"),
    [("train.txt", ""), ("[images/train]", ""), ("../images/train", ""), ("train", "path: images\n")],
    ids=["a list of files", "several folders", "a folder too deep", "below path"],
)
def test_yolo_pictures_wherever_they_are_named(tmp_path, train, path):
    config = yolo(tmp_path / "set", train=train, path=path)
    (tmp_path / "set" / "train.txt").write_text("".join(f"./images/train/p{n}.png\n" for n in range(6)))
    assert rounded(contents(build_source(config).splits["train"])) == expected(*range(6))


def test_yolo_outlines_become_boxes_and_masks(tmp_path):
    config = yolo(tmp_path)
    corners = [(5, 6), (25, 6), (25, 30), (5, 30)]
    shares = " ".join(f"{x / 60} {y / 40}" for x, y in corners)
    (tmp_path / "labels" / "train" / "p0.txt").write_text(f"0 {shares}\n")
    records = build_source(config).splits["train"]
    assert records.boxes_of(0)[0].tolist() == pytest.approx([5, 6, 25, 30])
    mask = decode(records.segmentations[0], 40, 60)
    assert mask.sum() == 20 * 24
    assert mask[6:30, 5:25].all()


def poses(root: Path, keypoint: str, extra: str = "") -> YoloTxt:
    """Rows of a box and two keypoints each, in it; `keypoint` is what follows the second number."""
    config = yolo(root, extra=extra)
    for path in (root / "labels" / "train").iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        tails = [f" {x} {y}{keypoint}" * 2 for _, x, y, *_ in rows]
        path.write_text("".join(" ".join(row) + tail + "\n" for row, tail in zip(rows, tails, strict=True)))
    return config


@pytest.mark.parametrize(
    ("keypoint", "extra"), [("", "kpt_shape: [2, 2]\n"), (" 2", "kpt_shape: [2, 3]\n"), (" 2", "")]
)
def test_yolo_poses_become_boxes(tmp_path, keypoint, extra):
    source = build_source(poses(tmp_path, keypoint, extra))
    assert rounded(contents(source.splits["train"])) == expected(*range(6))
    assert source.splits["train"].segmentations is None
    assert any("keypoints are left out" in note for note in source.notes)


def test_yolo_rows_that_could_be_poses_or_outlines_are_asked_about(tmp_path):
    with pytest.raises(DataError, match="could be outlines, or poses") as error:
        build_source(poses(tmp_path / "unsaid", ""))
    assert "kpt_shape: [2, 2] for poses, kpt_shape: null for outlines" in error.value.fix
    config = poses(tmp_path / "outlines", "", "kpt_shape: null\n").model_copy(update={"on_invalid": "fix"})
    source = build_source(config)
    assert source.splits["train"].segmentations is not None
    with pytest.raises(DataError, match="kpt_shape is 17"):
        build_source(poses(tmp_path / "wrong", "", "kpt_shape: 17\n"))


def test_yolo_classes_numbered_from_one_are_refused_whatever_on_invalid_says(tmp_path):
    config = yolo(tmp_path)
    for path in (tmp_path / "labels" / "train").iterdir():
        rows = path.read_text().splitlines()
        path.write_text("".join(f"{int(row[0]) + 1}{row[1:]}\n" for row in rows))
    with pytest.raises(
        DataError, match="class 2 is unknown: the label files count classes from 1 to 2, but names count from 0 to 1"
    ) as error:
        build_source(config.model_copy(update={"on_invalid": "fix"}))
    assert "names: {1: cat, 2: dog}" in error.value.fix
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: {1: cat, 2: dog}\n")
    assert rounded(contents(build_source(config).splits["train"])) == expected(*range(6))


def test_yolo_label_files_and_pictures_that_do_not_match_are_said(tmp_path):
    config = yolo(tmp_path)
    labels, images = tmp_path / "labels" / "train", tmp_path / "images" / "train"
    (labels / "p0.txt").rename(labels / "q0.txt")
    (labels / "classes.txt").write_text("cat\ndog\n")
    orphans, bare = build_source(config).notes[:2]
    assert orphans.startswith("1 label file of no picture")
    assert "q0.txt" in orphans
    assert bare.startswith("2 pictures without a label file")
    assert "looked for" in bare
    sheets.picture(2).rotate(90).save(images / "p4.jpg")
    with pytest.raises(DataError, match="2 pictures share a label file") as error:
        build_source(config)
    assert "p4.jpg" in error.value.what
    assert "p4.png" in error.value.what


@pytest.mark.parametrize("policy", ["error", "fix"])
@pytest.mark.parametrize(
    "astray", ["labels/train/p1.png.txt", "images/train/p1.txt", "labels/train/p1.TXT", "labels/p1.txt"]
)
def test_yolo_label_files_astray_are_refused_and_the_advice_holds(tmp_path, astray, policy):
    """Their pictures would be taught as empty ones; after what the message says nothing is lost."""
    config = yolo(tmp_path, on_invalid=policy)
    label = tmp_path / "labels" / "train" / "p1.txt"
    label.rename(tmp_path / astray)
    with pytest.raises(DataError, match="1 label file would not be read") as error:
        build_source(config)
    there, wanted = error.value.fix.partition(": ")[2].split(" to ")
    Path(there).rename(wanted)
    assert rounded(contents(build_source(config).splits["train"])) == expected(*range(6))


@pytest.mark.parametrize(
    ("names", "extra", "what"),
    [
        ("[cat, dog]", "nc: 3\n", "nc is 3, but there are 2 names"),
        ("[cat, cat]", "", "two classes have the same name: cat"),
        ("[cat, null]", "", "not null"),
        ("[cat, true]", "", "not True"),
        ("[cat, dog]", "val: [images/train]\n", "train and val are the same pictures"),
    ],
)
def test_yolo_contradictions_are_refused(tmp_path, names, extra, what):
    with pytest.raises(DataError, match=what):
        build_source(yolo(tmp_path, names=names, extra=extra))


def test_backslashes_separate_folders(tmp_path):
    assert rounded(contents(build_source(yolo(tmp_path / "yolo", train="images\\train")).splits["train"])) == expected(
        *range(6)
    )
    sheets.draw(tmp_path / "images")
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax\nimages\\p0.png,cat,1,1,9,9\n")
    assert len(build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)).splits["train"]) == 1


@pytest.mark.parametrize("policy", ["error", "drop", "fix"])
def test_shares_are_not_taken_for_pixels(tmp_path, policy):
    sheets.draw(tmp_path)
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax\np0.png,cat,0,0.25,0.5,1\n")
    with pytest.raises(DataError, match="in shares of the picture, not in pixels") as error:
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", on_invalid=policy, **SMALL))
    assert "multiply x by the width" in error.value.fix


@pytest.mark.parametrize("policy", ["error", "drop", "fix"])
def test_corners_and_sides_are_not_taken_for_each_other(tmp_path, policy):
    """Mended one by one they would be other boxes."""
    content = sheets.coco_content()
    for thing in content["annotations"]:
        left, top, width, height = thing["bbox"]
        thing["bbox"] = [left, top, left + width, top + height]
    with pytest.raises(DataError, match="but all are right as left, top, right, bottom"):
        build_source(coco(tmp_path, content, on_invalid=policy))
    lines = [
        ",".join(map(str, (f"p{n}.png", "cat", a, b, c - a, d - b))) for n in range(6) for a, b, c, d in sheets.BOXES[n]
    ]
    (tmp_path / "b.csv").write_text("\n".join([HEADER, *lines]))
    with pytest.raises(DataError, match="but all are right as left, top, width, height") as caught:
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", on_invalid=policy, **SMALL))
    assert caught.value.fix == "write left, top, right, bottom, which this format has"


def test_coco_as_other_tools_write_it(tmp_path):
    content = sheets.coco_content()
    for image in content["images"]:
        image["id"] = str(image["id"])
    for thing in content["annotations"]:
        thing |= {"category_id": float(thing["category_id"]), "segmentation": [[]], "area": 0}
        if thing["id"] == 1:
            thing["bbox"] = [str(side) for side in thing["bbox"]]
        if thing["id"] == 2:
            left, top, width, height = thing.pop("bbox")
            thing["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    source = build_source(coco(tmp_path, content))
    assert source.info.class_names == ("cat", "dog")
    assert any("'animals' has no object and is no class" in note for note in source.notes)
    assert contents(source.splits["train"]) == expected(*range(6))
    assert source.splits["train"].area.min() > 0


def test_coco_with_an_image_entry_for_each_object(tmp_path):
    """As some tools write it; sizes are texts in it as well, and a box is drawn at an angle."""
    content = sheets.coco_content()
    of_id = {image["id"]: image for image in content["images"]}
    for number, thing in enumerate(content["annotations"]):
        again = of_id[thing["image_id"]] | {"id": 1000 + number}
        content["images"].append(again | {side: str(again[side]) for side in ("width", "height")})
        thing |= {"image_id": again["id"], "attributes": {"rotation": 12.5 * (number == 0)}}
    source = build_source(coco(tmp_path, content))
    assert contents(source.splits["train"]) == expected(*range(6))
    number = len(content["annotations"])
    assert any(f"{number} image entries name a file once more" in note for note in source.notes)
    assert any("1 box is rotated, and read as if not" in note for note in source.notes)


def test_voc_pictures_without_xml_and_rotated_boxes_are_said(folder):
    (folder / "Annotations" / "p2.xml").unlink()
    turned = "<attributes><attribute><name>rotation</name><value>{}</value></attribute></attributes>"
    extra = "".join(sheets.xml_object((1, 1, 9 + n, 9), "cat", turned.format(30.0 * n)) for n in (0, 1))
    (folder / "Annotations" / "p4.xml").write_text(sheets.xml(4, extra=extra))
    notes = build_source(voc(folder)).notes
    assert any("1 picture without an XML file, not used: p2.png" in note for note in notes)
    assert any("1 box is rotated" in note for note in notes)


def test_classes_that_are_plainly_the_same_are_told(tmp_path):
    content = sheets.coco_content()
    content["categories"][0]["name"] = content["categories"][1]["name"].upper()
    notes = build_source(coco(tmp_path, content)).notes
    assert any(note.startswith("WARNING: different classes") for note in notes)


def test_coco_numbers_and_names_that_nothing_can_hold_are_faults(tmp_path):
    content = sheets.coco_content()
    content["images"] += [{"id": 2**63, "file_name": "x.png"}, {"id": 7, "file_name": "a\0b"}]
    content["categories"].append({"id": 9, "name": "\ud800"})
    content["annotations"].append({"id": 99, "image_id": 100, "category_id": 7, "bbox": [1, 1, 10**400, 5]})
    with pytest.raises(DataError, match=r"4 malformed"):
        build_source(coco(tmp_path, content))


def test_a_validation_split_without_objects_is_said(tmp_path):
    sheets.draw(tmp_path)
    rows = "p0.png,cat,1,1,9,9,train\np1.png,,,,,,val\n"
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax,split\n" + rows)
    notes = build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)).notes
    assert any(note.startswith("val has no object that counts") for note in notes)


def test_yolo_needs_names_and_pictures(tmp_path):
    config = yolo(tmp_path)
    for names in ("[]", "{²: cat}", "{٣: cat}", f"{{'{'9' * 25}': cat}}"):
        (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
        with pytest.raises(DataError, match="no names"):
            build_source(config)
    (tmp_path / "data.yaml").write_text("train: nowhere\nnames: [cat]\n")
    with pytest.raises(DataError, match="there is no"):
        build_source(config)
    (tmp_path / "data.yaml").write_text("train: [unclosed\n")
    with pytest.raises(ConfigError):
        build_source(config)


# --- CSV -------------------------------------------------------------------------------------------------------------


def rows(*numbers: int, tail: str = "") -> str:
    return "".join(
        f"p{n}.png,{sheets.NAMES[label - 1]},{a},{b},{c},{d}{tail}\n"
        for n in numbers
        for (a, b, c, d), label in zip(sheets.BOXES[n], sheets.LABELS[n], strict=True)
    )


HEADER = "filename,class,xmin,ymin,xmax,ymax"


def test_csv(tmp_path):
    sheets.draw(tmp_path)
    (tmp_path / "b.csv").write_text(f"{HEADER}\n{rows(*range(6))}p2.png,,,,,\n")
    source = build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL))
    assert contents(source.splits["train"]) == expected(*range(6))


def test_csv_rows_without_a_class(tmp_path):
    sheets.draw(tmp_path)
    (tmp_path / "b.csv").write_text(f"{HEADER}\n{rows(*range(6))}p2.png,nan,1,1,9,9\n")
    with pytest.raises(DataError, match="1 unknown_class"):
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL))


def test_csv_with_a_column_of_splits_other_delimiters_and_order(tmp_path):
    sheets.draw(tmp_path / "pictures")
    text = f"{HEADER},split\n{rows(0, 1, tail=',train')}{rows(3, tail=',validation')}{rows(4, tail=',test')}"
    (tmp_path / "b.csv").write_text(text.replace(",", ";"))
    config = BoxCsv(name="box_csv", file=tmp_path / "b.csv", root=tmp_path / "pictures", **SMALL)
    found = {split: contents(records) for split, records in build_source(config).splits.items()}
    assert found == {"train": expected(0, 1), "val": expected(3), "test": expected(4)}


def test_csv_a_file_for_each_split(tmp_path):
    sheets.draw(tmp_path)
    (tmp_path / "a.csv").write_text(f"{HEADER}\n{rows(0, 1, 5)}")
    (tmp_path / "b.csv").write_text(f"{HEADER}\n{rows(3)}")
    config = BoxCsv(name="box_csv", file=tmp_path / "a.csv", test_file=tmp_path / "b.csv", image_size=64, val=0.34)
    splits = build_source(config).splits
    assert contents(splits["test"]) == expected(3)
    assert contents(splits["train"]) | contents(splits["val"]) == expected(0, 1, 5)
    assert len(splits["val"]) == 1


def test_csv_without_a_column(tmp_path):
    (tmp_path / "b.csv").write_text("filename,class,x_min,ymin,xmax,ymax\na.png,cat,1,2,3,4\n")
    with pytest.raises(DataError, match="no column 'xmin' \\(did you mean 'x_min'"):
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv"))


# --- readers and writers without a config ----------------------------------------------------------------------------


def test_a_reader_is_a_function_and_what_it_reads_can_be_written(folder, tmp_path):
    found = read_voc(folder)
    assert (len(found.pictures), found.faults, found.known_names()) == (6, [], ("cat", "dog"))
    pictures = [picture._replace(path=Path(picture.path).name, split="train") for picture in found.pictures]
    (tmp_path / "out").mkdir()
    section = write_box_csv(replace(found, pictures=pictures), tmp_path / "out")
    again = read_box_csv(tmp_path / "out" / section["file"])
    assert [(picture.path, picture.size) for picture in again.pictures] == [(p.path, p.size) for p in pictures]
    boxes = [[(thing.picture, thing.box_xyxy, thing.name) for thing in one.objects] for one in (found, again)]
    assert boxes[0] == boxes[1]


# --- dividing --------------------------------------------------------------------------------------------------------


def test_splits_are_divided_by_seed_and_disjoint(tmp_path):
    sheets.voc_folder(tmp_path, count=40)
    config = voc(tmp_path, val=0.2, test=0.1)
    splits = build_source(config).splits
    names = {split: set(contents(records)) for split, records in splits.items()}
    assert {split: len(found) for split, found in names.items()} == {"train": 28, "val": 8, "test": 4}
    assert len(set.union(*names.values())) == 40
    again = {split: set(contents(records)) for split, records in build_source(config).splits.items()}
    other = build_source(config.model_copy(update={"split_seed": 1})).splits
    assert names == again
    assert names["val"] != set(contents(other["val"]))
    assert {1, 2} <= set(splits["val"].labels.tolist()), "stratified by the rarest class"


# --- dialects --------------------------------------------------------------------------------------------------------


def test_voc_folders_of_splits_with_pictures_and_xml_together(folder):
    """Roboflow's export."""
    for split, numbers in (("train", (0, 1, 2)), ("valid", (3,)), ("test", (4, 5))):
        (folder / split).mkdir()
        for number in numbers:
            (folder / "JPEGImages" / f"p{number}.png").rename(folder / split / f"p{number}.png")
            (folder / "Annotations" / f"p{number}.xml").rename(folder / split / f"p{number}.XML")
    source = build_source(voc(folder))
    assert {split: contents(records) for split, records in source.splits.items()} == {
        "train": expected(0, 1, 2),
        "val": expected(3),
        "test": expected(4, 5),
    }
    assert any("valid/" in note and "val split" in note for note in source.notes)


def test_voc_beside_the_pictures_is_said_and_the_advice_holds(folder):
    for path in (*folder.glob("JPEGImages/*"), *folder.glob("Annotations/*")):
        path.rename(folder / path.name)
    (folder / "Annotations").rmdir()
    with pytest.raises(DataError) as error:
        build_source(voc(folder))
    assert "data.annotations=., and data.images=." in error.value.fix
    assert contents(build_source(voc(folder, images=".", annotations=".")).splits["train"]) == expected(*range(6))


def test_voc_two_pictures_of_one_name_are_told_apart_by_filename(folder):
    sheets.picture(3).rotate(180).save(folder / "JPEGImages" / "p0.bmp")
    assert contents(build_source(voc(folder)).splits["train"]) == expected(*range(6))
    sheet = folder / "Annotations" / "p0.xml"
    sheet.write_text(sheet.read_text().replace("p0.png", "p0"))
    with pytest.raises(DataError, match="1 malformed") as error:
        build_source(voc(folder))
    assert "which of p0.bmp, p0.png is it?" in error.value.where


JSON_OF_OTHERS = {
    "labelme": ({"version": "5.0", "shapes": [], "imagePath": "p0.png"}, "labelme2coco FOLDER"),
    "VIA": ({"p0.png123": {"filename": "p0.png", "size": 123, "regions": []}}, "COCO format"),
    "VIA project": ({"_via_settings": {}, "_via_img_metadata": {}}, "COCO format"),
    "Label Studio": ([{"id": 1, "annotations": [], "data": {"image": "p0.png"}}], "Export, COCO"),
    "answers": ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "ground truth"),
}


@pytest.mark.parametrize("kind", JSON_OF_OTHERS)
def test_other_json_is_refused_by_name(tmp_path, kind):
    content, advice = JSON_OF_OTHERS[kind]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="not COCO's JSON") as error:
        build_source(Coco(name="coco", root=tmp_path, train_file=tmp_path / "a.json", **SMALL))
    assert kind.split()[0] in error.value.what
    assert advice in error.value.fix


def test_a_root_that_the_names_repeat_is_said_and_the_advice_holds(tmp_path):
    sheets.draw(tmp_path / "set" / "images")
    lines = ["filename,class,xmin,ymin,xmax,ymax"] + [f"images/p{n}.png,cat,1,1,9,9" for n in range(6)]
    (tmp_path / "b.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="none of the 6 pictures is there") as error:
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", root=tmp_path / "set" / "images", **SMALL))
    root = tmp_path / "set"
    assert f"lie below {root}: set data.root" in error.value.fix
    assert len(build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", root=root, **SMALL)).splits["train"]) == 6


def test_where_nothing_is_left_the_first_faults_are_told(tmp_path):
    sheets.draw(tmp_path)
    (tmp_path / "b.csv").write_text(f"{HEADER}\n" + 'p0.png,cat,"1,5","2,5","9,5","9,5"\n' * 6)
    with pytest.raises(DataError, match="no picture with an object") as caught:
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", on_invalid="fix", **SMALL))
    assert "b.csv:2: '1,5' is not a number" in caught.value.where


def test_boxes_of_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax,class\np0.png,cat,1,1,9,9,3\n")
    with pytest.raises(DataError, match="columns of the same name"):
        build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL))


def test_data_yaml_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(build_source(yolo(tmp_path / "set", path="path: ~/set\n")).splits["train"]) == 6
    with pytest.raises(DataError) as error:
        build_source(yolo(tmp_path / "other", path="path: $HOME/other\n"))
    assert "variables such as $HOME are not expanded" in error.value.fix


@pytest.mark.parametrize("mark", ["iscrowd", "difficult"])
def test_a_training_split_of_which_nothing_counts_is_refused(tmp_path, mark):
    sheets.draw(tmp_path)
    sheet = sheets.coco_content()
    for entry in sheet["annotations"]:
        entry[mark] = 1
    (tmp_path / "a.json").write_text(json.dumps(sheet))
    with pytest.raises(DataError, match="no picture with an object to train on") as error:
        build_source(Coco(name="coco", root=tmp_path, train_file=tmp_path / "a.json", **SMALL))
    assert "do not count" in error.value.where
