"""Converting: what is read from what was written is what it was, but for what the format cannot say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcli.errors import ConfigError, DataError, OutputError
from mlcli.tasks.detection.data.annotations.convert import WRITERS, convert
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import BoxCsv, Coco, Scenes, Voc, YoloTxt
from mlcli.tasks.detection.masks import decode
from tests.tasks.detection import sheets

SMALL: dict[str, Any] = {"image_size": 64, "val": 0.0}


@pytest.fixture
def original(tmp_path):
    """COCO with all that it can say: splits, fractions, a crowd, masks, ids of its own, a picture without objects."""
    root = tmp_path / "in"
    sheets.draw(root / "a", count=4)
    sheets.draw(root / "b", count=6)
    content = sheets.coco_content()
    content["images"][2]["file_name"] = "p2.png"
    content["annotations"][0] |= {"bbox": [5.125, 6.3, 20.1, 23.7], "area": 400.5}
    content["annotations"][1] |= {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [1210, 20, 1170]}}
    content["annotations"][2] |= {"difficult": 1, "segmentation": [[2, 3, 38, 3, 20.5, 41]]}
    for entry in content["images"]:
        entry["file_name"] = f"b/{entry['file_name']}"
    held_out = dict(content)
    for key, of in (("images", "id"), ("annotations", "image_id")):
        held_out[key] = [entry for entry in content[key] if entry[of] >= 140]
        content[key] = [entry for entry in content[key] if entry[of] < 140]
    (root / "train.json").write_text(json.dumps(content))
    (root / "val.json").write_text(json.dumps(held_out))
    return Coco(name="coco", root=root, train_file=root / "train.json", val_file=root / "val.json", **SMALL)


def reader(format: str, out: Path):
    match format:
        case "coco":
            files = {f"{split}_file": out / "annotations" / f"{split}.json" for split in ("train", "val")}
            return Coco(name="coco", root=out / "images", **files, **SMALL)
        case "voc":
            return Voc(name="voc", root=out, **SMALL)
        case "yolo_txt":
            return YoloTxt(name="yolo_txt", file=out / "data.yaml", **SMALL)
        case _:
            return BoxCsv(name="box_csv", file=out / "boxes.csv", root=out / "images", **SMALL)


@pytest.mark.parametrize("format", WRITERS)
def test_there_and_back(original, tmp_path, format):
    lines = convert(original, format, tmp_path / "out")
    before, after = build_source(original), build_source(reader(format, tmp_path / "out"))
    assert after.info.class_names == before.info.class_names
    assert list(after.splits) == list(before.splits) == ["train", "val"]
    for split, ours in before.splits.items():
        theirs = after.splits[split]
        names = [Path(theirs.name(index)).name for index in range(len(theirs))]
        for index in range(len(ours)):
            other = names.index(Path(ours.name(index)).name)
            order, back = (np.lexsort(r.boxes_of(i).T) for r, i in ((ours, index), (theirs, other)))
            exact = 1e-4 if format == "yolo_txt" else 0
            assert abs(ours.boxes_of(index)[order] - theirs.boxes_of(other)[back]).max(initial=0) <= exact
            assert np.array_equal(ours.labels_of(index)[order], theirs.labels_of(other)[back])
            assert np.array_equal(ours.original(index), theirs.original(other))
    text = "\n".join(lines)
    assert ("lost" in text) == (format != "coco")
    assert ("1 marks of difficult" in text) == (format in ("yolo_txt", "csv"))
    assert ("2 masks" in text) == (format != "coco")


def test_ids_are_lost_only_where_there_were_some(original, tmp_path):
    assert "ids of pictures" in "\n".join(convert(original, "voc", tmp_path / "voc"))
    again = convert(reader("voc", tmp_path / "voc"), "csv", tmp_path / "csv")
    assert "ids of" not in "\n".join(again)


def test_coco_to_coco_loses_nothing(original, tmp_path):
    convert(original, "coco", tmp_path / "out")
    before, after = build_source(original), build_source(reader("coco", tmp_path / "out"))
    assert after.info.preparation["category_ids"] == [7, 20]
    for split, ours in before.splits.items():
        theirs = after.splits[split]
        for field in ("ids", "sizes", "offsets", "boxes_xyxy", "labels", "crowd", "difficult", "area"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
        assert ours.segmentations == theirs.segmentations


def test_other_coco_tools_read_it(original, tmp_path):
    from faster_coco_eval import COCO

    convert(original, "coco", tmp_path / "out")
    theirs = COCO(str(tmp_path / "out" / "annotations" / "train.json"))
    records = build_source(original).splits["train"]
    for t, (annotation, image) in enumerate(zip(theirs.dataset["annotations"], records.picture_of, strict=True)):
        left, top, right, bottom = records.boxes_xyxy[t].tolist()
        assert annotation["bbox"] == pytest.approx([left, top, right - left, bottom - top])
        assert annotation["image_id"] == records.ids[image]
        mask = records.segmentations[t]
        if mask is not None:
            width, height = records.sizes[image]
            assert np.array_equal(theirs.annToMask(annotation), decode(mask, height, width))


def test_scenes_become_files(tmp_path):
    config = Scenes(name="scenes", images=20, image_size=64)
    lines = convert(config, "coco", tmp_path / "out")
    files = {f"{split}_file": tmp_path / "out" / "annotations" / f"{split}.json" for split in ("train", "val", "test")}
    copy = build_source(Coco(name="coco", root=tmp_path / "out" / "images", **files, image_size=64))
    for split, records in build_source(config).splits.items():
        assert np.array_equal(copy.splits[split].boxes_xyxy, records.boxes_xyxy)
        assert (copy.splits[split].read(np.arange(3)) == records.read(np.arange(3))).all()
        assert copy.splits[split].segmentations == records.segmentations
    assert any("20 pictures" in line for line in lines)


def test_the_section_that_is_printed_reads_it(original, tmp_path):
    from mlcli.schema.places import Origin
    from mlcli.schema.yaml12 import parse

    lines = convert(original, "voc", tmp_path / "out")
    section = parse("\n".join(lines[lines.index("") + 2 :]), Origin("", ())).data["data"]
    assert build_source(Voc(**(section | {"root": tmp_path / "out"} | SMALL))).splits.keys() == {"train", "val"}


def test_pictures_of_the_same_name_get_their_folders(tmp_path):
    for number, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        sheets.picture(number).save(tmp_path / folder / "p.png")
    rows = "x/p.png,cat,1,1,9,9\ny/p.png,cat,1,1,9,9\n"
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + rows)
    convert(BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL), "voc", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "Annotations").iterdir()) == ["x__p.xml", "y__p.xml"]


def test_names_are_escaped(tmp_path):
    sheets.draw(tmp_path)
    (tmp_path / "b.csv").write_text('filename,class,xmin,ymin,xmax,ymax\np0.png,"<a & b>, c",1,1,9,9\n')
    config = BoxCsv(name="box_csv", file=tmp_path / "b.csv", **SMALL)
    for format in WRITERS:
        convert(config, format, tmp_path / format)
    for format in ("voc", "yolo_txt", "csv"):
        assert build_source(reader(format, tmp_path / format)).info.class_names == ("<a & b>, c",)


def test_what_is_refused(original, tmp_path):
    with pytest.raises(ConfigError, match="unknown format 'kitti'"):
        convert(original, "kitti", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        convert(original, "voc", tmp_path / "out")
    (original.root / "b" / "p0.png").unlink()
    with pytest.raises(DataError, match="1 unreadable"):
        convert(original, "voc", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_conversion_that_ends_early_leaves_an_empty_folder(original, tmp_path, monkeypatch):
    def interrupted(annotations, out):
        (out / "annotations").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setitem(WRITERS, "coco", (interrupted, "images"))
    with pytest.raises(KeyboardInterrupt):
        convert(original, "coco", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_is_marked_until_it_is_whole_and_refused_until_then(original, tmp_path, monkeypatch):
    out = tmp_path / "out"
    train = Coco(name="coco", root=out / "images", train_file=out / "annotations" / "train.json", **SMALL)
    write, folder = WRITERS["coco"]

    def read_meanwhile(annotations, out):
        section = write(annotations, out)
        with pytest.raises(DataError, match="not whole"):
            build_source(train)
        with pytest.raises(OutputError, match="not whole"):  # as after a kill
            convert(original, "voc", out)
        return section

    monkeypatch.setitem(WRITERS, "coco", (read_meanwhile, folder))
    convert(original, "coco", out)
    build_source(train)
