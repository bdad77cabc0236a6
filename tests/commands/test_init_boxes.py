"""`mlcli init` on annotated pictures: every format is recognised, and what is written trains."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcli.errors import ExitCode
from mlcli.experiment import Experiment
from mlcli.tasks.detection.data.build import build_source

SIZE, BOX = (96, 64), (20, 12, 60, 52)  # width, height; corners
KINDS = ("ant", "bee")


def shown(path: Path, number: int) -> Path:
    """A grey picture of its own with one bright object."""
    pixels = np.random.default_rng(number).integers(60, 120, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right, number % 2] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def xml(kind: str) -> str:
    corners = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True))
    return f"<annotation><object><name>{kind}</name><bndbox>{corners}</bndbox></object></annotation>"


def label(number: int) -> str:
    left, top, right, bottom = BOX
    shares = ((left + right) / 2 / 96, (top + bottom) / 2 / 64, (right - left) / 96, (bottom - top) / 64)
    return f"{number % 2} " + " ".join(f"{share:.6f}" for share in shares) + "\n"


def coco(path: Path, names: list[str], first: int = 0, prefix: str = "") -> None:
    left, top, right, bottom = BOX
    images = [{"id": n, "file_name": prefix + name, "width": 96, "height": 64} for n, name in enumerate(names, 1)]
    box = [left, top, right - left, bottom - top]
    things = [
        {"id": n, "image_id": n, "category_id": 5 + (first + n) % 2, "bbox": box} for n in range(1, len(names) + 1)
    ]
    categories = [{"id": 5 + n, "name": name} for n, name in enumerate(KINDS)]
    write(path, json.dumps({"images": images, "annotations": things, "categories": categories}))


def voc(root: Path) -> None:
    for n in range(20):
        shown(root / f"JPEGImages/{n}.png", n)
        write(root / f"Annotations/{n}.xml", xml(KINDS[n % 2]))
    write(root / "ImageSets/Main/train.txt", "".join(f"{n}\n" for n in range(16)))
    write(root / "ImageSets/Main/val.txt", "".join(f"{n}\n" for n in range(16, 20)))


def raccoon(root: Path) -> None:
    """Small folders, and CSV files that say which picture is in which split."""
    for n in range(20):
        shown(root / f"images/{n}.png", n)
        write(root / f"annotations/{n}.xml", xml(KINDS[n % 2]))
    for split, numbers in {"train": range(16), "test": range(16, 20)}.items():
        write(root / f"{split}_labels.csv", "filename,class\n" + "".join(f"{n}.png,ant\n" for n in numbers))


def labelimg(root: Path) -> None:
    for n in range(20):
        write(shown(root / f"{n}.png", n).with_suffix(".xml"), xml(KINDS[n % 2]))


def roboflow_voc(root: Path) -> None:
    for n in range(20):
        write(shown(root / ("train" if n < 16 else "valid") / f"{n}.png", n).with_suffix(".xml"), xml(KINDS[n % 2]))


def coco_set(root: Path) -> None:
    for split, numbers in {"train2017": range(16), "val2017": range(16, 20)}.items():
        names = [shown(root / split / f"{n}.png", n).name for n in numbers]
        coco(root / f"annotations/instances_{split}.json", names)
        write(root / f"annotations/captions_{split}.json", '{"images": [], "annotations": [], "categories": []}')


def cvat_coco(root: Path) -> None:
    coco(root / "annotations/instances_default.json", [shown(root / f"images/{n}.png", n).name for n in range(20)])


def label_studio_coco(root: Path) -> None:
    names = [shown(root / f"images/{n}.png", n).name for n in range(20)]
    coco(root / "result.json", names, prefix="images/")


def roboflow_coco(root: Path) -> None:
    for split, numbers in {"train": range(16), "valid": range(16, 20)}.items():
        coco(root / split / "_annotations.coco.json", [shown(root / split / f"{n % 16}.png", n).name for n in numbers])


def yolo(root: Path) -> None:
    for n in range(20):
        split = "train" if n < 16 else "val"
        shown(root / f"images/{split}/{n}.png", n)
        write(root / f"labels/{split}/{n}.txt", label(n))
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: {0: ant, 1: bee}\n")


def roboflow_yolo(root: Path) -> None:
    for n in range(20):
        split = "train" if n < 16 else "valid"
        shown(root / f"{split}/images/{n}.png", n)
        write(root / f"{split}/labels/{n}.txt", label(n))
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['ant', 'bee']\n")


def cvat_yolo(root: Path) -> None:
    for n in range(20):
        write(shown(root / f"obj_train_data/{n}.png", n).with_suffix(".txt"), label(n))
    write(root / "obj.names", "ant\nbee\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{n}.png\n" for n in range(20)))


def label_studio_yolo(root: Path) -> None:
    for n in range(20):
        shown(root / f"images/{n}.png", n)
        write(root / f"labels/{n}.txt", label(n))
    write(root / "classes.txt", "ant\nbee\n")
    write(root / "notes.json", '{"categories": [{"id": 0, "name": "ant"}], "info": {"year": 2024}}')


def labelimg_yolo(root: Path) -> None:
    for n in range(20):
        write(shown(root / f"{n}.png", n).with_suffix(".txt"), label(n))
    write(root / "classes.txt", "ant\nbee\n")


def rows(folder: Path, name: str, numbers: range) -> None:
    cells = [(shown(folder / f"{n}.png", n).name, 96, 64, KINDS[n % 2], *BOX) for n in numbers]
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"), *cells])


def box_csv(root: Path) -> None:
    rows(root, "boxes.csv", range(20))


def roboflow_csv(root: Path) -> None:
    rows(root / "train", "_annotations.csv", range(16))
    rows(root / "valid", "_annotations.csv", range(16, 20))


def nested(root: Path) -> None:
    voc(root / "VOCdevkit/VOC2012")


LAYOUTS = {
    "voc": (voc, "", "voc", {"train": 16, "val": 4}),
    "lists in CSV files": (raccoon, "", "voc", {"train": 16, "test": 4}),
    "labelimg": (labelimg, "", "voc", {}),
    "roboflow voc": (roboflow_voc, "", "voc", {"train": 16, "val": 4}),
    "a folder in a folder": (nested, "", "voc", {"train": 16, "val": 4}),
    "coco": (coco_set, "", "coco", {"train": 16, "val": 4}),
    "cvat coco": (cvat_coco, "", "coco", {}),
    "label studio coco": (label_studio_coco, "", "coco", {}),
    "label studio coco, the file": (label_studio_coco, "result.json", "coco", {}),
    "roboflow coco": (roboflow_coco, "", "coco", {"train": 16, "val": 4}),
    "train.json": (roboflow_coco, "train/_annotations.coco.json", "coco", {}),
    "yolo": (yolo, "", "yolo_txt", {"train": 16, "val": 4}),
    "data.yaml": (yolo, "data.yaml", "yolo_txt", {"train": 16, "val": 4}),
    "roboflow yolo": (roboflow_yolo, "", "yolo_txt", {"train": 16, "val": 4}),
    "cvat yolo": (cvat_yolo, "", "yolo_txt", {}),
    "label studio yolo": (label_studio_yolo, "", "yolo_txt", {}),
    "labelimg yolo": (labelimg_yolo, "", "yolo_txt", {}),
    "box csv": (box_csv, "", "box_csv", {}),
    "box csv, the file": (box_csv, "boxes.csv", "box_csv", {}),
    "roboflow csv": (roboflow_csv, "", "box_csv", {"train": 16, "val": 4}),
}


def proposed(mlcli, what: Path | str, *options: object):
    done = mlcli("init", what, "-o", "config.yaml", "--force", *options)
    assert (done.code, done.err) == (ExitCode.OK, "")
    return Experiment.load(Path("config.yaml")), done.out


@pytest.mark.parametrize(("lay_out", "what", "name", "splits"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_each_layout_is_recognised_and_read_as_it_is(mlcli, lay_out: Callable[[Path], None], what, name, splits):
    lay_out(Path("bugs"))
    experiment, said = proposed(mlcli, Path("bugs") / what)
    config = experiment.config
    assert (config.task, config.data.name, config.model.name) == ("detection", name, "yolo")
    assert said.endswith("next: mlcli train config.yaml\n")
    source = build_source(config.data)
    assert source.info.class_names == KINDS
    found = {split: len(records) for split, records in source.splits.items()}
    for split, count in splits.items():
        assert f"{count} {split}" in experiment.source_text
        assert found[split] == count or split == "train", "some of train are held out for what no file names"
    read = 16 if what == "train/_annotations.coco.json" else 20
    assert sum(found.values()) == read
    assert set(found) >= {"train", "val"}, "what no file divides is divided"
    every = np.concatenate([records.boxes_xyxy for records in source.splits.values()])
    assert np.abs(every - np.array(BOX)).max() < 0.01
    assert len(every) == read


@pytest.mark.parametrize("lay_out", [voc, coco_set, yolo, labelimg_yolo, box_csv], ids=lambda lay_out: lay_out.__name__)
def test_what_is_written_trains(mlcli, lay_out):
    lay_out(Path("bugs"))
    proposed(mlcli, "bugs")
    small = ("train.epochs=1", "model.width=4", "train.device=cpu", "train.tensorboard.pictures=false")
    done = mlcli("train", "config.yaml", "train.baselines=false", "loader.workers=0", *small)
    assert done.code == ExitCode.OK, done.err
    assert "warning" not in done.out.partition("epoch")[0]


def test_what_is_proposed_fits_the_pictures(mlcli):
    voc(Path("bugs"))
    assert "2 classes, as the data name them: ant (8), bee (8)" in proposed(mlcli, "bugs")[0].source_text
    config = proposed(mlcli, "bugs")[0].config
    assert config.data.image_size == (64, 96), "wide as the pictures, and no larger"
    assert config.model.strides[0] <= 40
    assert "horizontal_flip" in [change.name for change in config.augment]
    assert config.train.epochs > proposed(mlcli, "bugs", "--minutes", "0.1")[0].config.train.epochs >= 1


@pytest.mark.parametrize("model", ["ssd", "retinanet", "fcos", "faster_rcnn"])
def test_another_model_is_proposed_and_trains(mlcli, model):
    voc(Path("bugs"))
    usual = proposed(mlcli, "bugs", "--minutes", "0.2")[0].config
    config = proposed(mlcli, "bugs", "--minutes", "0.2", "--model", model)[0].config
    assert config.model.name == model
    assert (config.train.epochs < usual.train.epochs) == (model != "ssd"), "the slower, the fewer"
    small = ("train.epochs=1", "model.width=4", "train.device=cpu", "train.tensorboard.pictures=false")
    done = mlcli("train", "config.yaml", "train.baselines=false", "loader.workers=0", *small)
    assert done.code == ExitCode.OK, done.err


def test_scales_of_ssd_fit_the_objects(mlcli):
    for n in range(20):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (320, 320, 3), dtype=np.uint8)).save(f"{n}.png")
    scales = []
    for side in (40, 240):
        lines = [
            f"{n}.png,{n % 2},{5 * n % 60},{7 * n % 60},{5 * n % 60 + side},{7 * n % 60 + side}\n" for n in range(20)
        ]
        Path("boxes.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + "".join(lines))
        scales.append(proposed(mlcli, "boxes.csv", "--model", "ssd")[0].config.model.scales)
    (least, most), (_, largest) = scales
    assert least <= 40 / 320 * 1.3, "an eighth of the picture is overlapped"
    assert most < 0.5
    assert largest >= 0.7


def test_a_model_is_named_for_boxes_only(mlcli):
    voc(Path("bugs"))
    done = mlcli("init", "bugs", "--model", "vgg")
    assert (done.code, "yolo, ssd, retinanet, fcos or faster_rcnn" in done.err) == (ExitCode.CONFIG, True)
    done = mlcli("init", "digits", "--model", "ssd")
    assert (done.code, "--model" in done.err, Path("config.yaml").exists()) == (ExitCode.CONFIG, True, False)


def test_small_objects_get_a_larger_input_and_digits_are_not_mirrored(mlcli):
    for n in range(20):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (640, 640, 3), dtype=np.uint8)).save(f"{n}.png")
    for side, least in ((20, 512), (200, 224)):
        lines = [f"{n}.png,{n % 2},100,100,{100 + side},{100 + side}\n" for n in range(20)]
        Path("boxes.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + "".join(lines))
        config = proposed(mlcli, "boxes.csv")[0].config
        assert config.data.image_size == least
        assert "horizontal_flip" not in [change.name for change in config.augment]


@pytest.mark.parametrize(("wide", "high", "expected"), [(640, 480, (192, 256)), (480, 640, (256, 192))])
def test_the_input_has_the_pictures_shape(mlcli, wide, high, expected):
    """Of two sizes 32 pixels apart the one of its shape, so that no part of the input is bars."""
    for n in range(20):
        Image.new("RGB", (wide, high), (n, 2 * n, 90)).save(f"{n}.png")
    lines = [f"{n}.png,{'ant' if n % 2 else 'bee'},100,100,300,300\n" for n in range(20)]
    Path("boxes.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + "".join(lines))
    assert proposed(mlcli, "boxes.csv")[0].config.data.image_size == expected


def test_what_cannot_be_told_is_asked_in_a_line(mlcli):
    labelimg_yolo(Path("bugs"))
    Path("bugs/classes.txt").unlink()
    done = mlcli("init", "bugs")
    assert (done.code, "classes.txt: a name a line" in done.err) == (ExitCode.DATA, True)
    voc(Path("sets/VOC2007"))
    voc(Path("sets/VOC2012"))
    done = mlcli("init", "sets")
    assert (done.code, "mlcli init sets/VOC2007" in done.err) == (ExitCode.DATA, True)
    write(Path("me/1.json"), '{"shapes": [], "version": "5"}')
    shown(Path("me/1.png"), 1)
    done = mlcli("init", "me")
    assert (done.code, "labelme" in done.err) == (ExitCode.DATA, True)
    done = mlcli("init", "digits", "--minutes", "5")
    assert (done.code, "--minutes" in done.err) == (ExitCode.CONFIG, True)


@pytest.mark.parametrize(
    "header",
    ["image,label,x1,y1,x2,y2", "ImageID,LabelName,XMin,YMin,XMax,YMax", "filename,Class,xmin,ymin,xmax,ymax"],
)
def test_boxes_in_columns_of_other_names_are_no_classes_of_pictures(mlcli, header):
    write(Path("boxes.csv"), header + "\n" + "".join(f"{n}.png,{KINDS[n % 2]},1,2,30,40\n" for n in range(20)))
    for n in range(20):
        shown(Path(f"{n}.png"), n)
    done = mlcli("init", "boxes.csv")
    assert (done.code, "filename, class, xmin, ymin, xmax, ymax" in done.err) == (ExitCode.DATA, True)


def test_pictures_and_tables_without_boxes_are_left_to_the_other_tasks(mlcli):
    for n in range(24):
        shown(Path(f"pets/{KINDS[n % 2]}/{n}.png"), n)
    write(Path("table.csv"), "x,y,width,height,price\n" + "".join(f"{n},{n % 7},{n},2,{n}.5\n" for n in range(60)))
    write(
        Path("list.csv"), "path,label\n" + "".join(f"pets/{KINDS[n % 2]}/{n}.png,{KINDS[n % 2]}\n" for n in range(24))
    )
    tasks = [proposed(mlcli, what)[0].config.task for what in ("pets", "table.csv", "list.csv")]
    assert "detection" not in tasks


def test_what_training_will_refuse_is_written_and_said(mlcli):
    """Every training picture is in val as well: `data check` says so, and needs the YAML."""
    for n in range(8):
        for split in ("train", "valid"):
            shown(Path(f"bugs/{split}/images/{n}.png"), n)
            write(Path(f"bugs/{split}/labels/{n}.txt"), label(n))
    write(Path("bugs/data.yaml"), "train: ../train/images\nval: ../valid/images\nnames: ['ant', 'bee']\n")
    experiment, said = proposed(mlcli, "bugs")
    assert "warning: training will refuse this: there is no picture with an object to train on" in said
    assert "8 shared_image" in said
    assert "  val:" not in experiment.source_text
    assert mlcli("data", "check", "config.yaml").code == ExitCode.DATA


def test_another_format_beside_is_named(mlcli):
    yolo(Path("bugs"))
    coco(Path("bugs/all.json"), [f"images/train/{n}.png" for n in range(16)])
    experiment, _ = proposed(mlcli, "bugs")
    assert experiment.config.data.name == "yolo_txt"
    assert "# Also there, as coco: mlcli init" in experiment.source_text
    assert "bugs/all.json" in experiment.source_text
