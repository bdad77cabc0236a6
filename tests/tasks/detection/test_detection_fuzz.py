"""Annotation files that were changed at random: the readers give annotations or a UserError, and nothing else.

`MUTATIONS=20000 pytest tests/tasks/detection/test_detection_fuzz.py` tries as many instead of a few hundred.
"""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from mlcli.errors import UserError
from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
from mlcli.tasks.detection.data.build import given_splits, read_annotations
from mlcli.tasks.detection.data.config import BoxCsv, Coco, Voc, YoloTxt
from tests.tasks.detection import sheets

MUTATIONS = int(os.environ.get("MUTATIONS", "500"))
ODD = (
    *("", "0", "-1", "1.5", "1e400", "-inf", "nan", "9" * 25, "9" * 400, "9" * 5000, "1_2", "²", "٣", "null", "true"),
    *("[]", "{}", "[[]]", '"a"', '"1"', "\0", "\\ud800", "é", "\\", "../", "~", "~nosuch/x", "x" * 300, "a\nb", "&a;"),
    *("*a", "!!binary x", "<a>", "</object>", "]]>", "train", "images", "%20", "$HOME", "%", ",", ";", "\t", "\x1b"),
)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """One to three changes: bits, bytes lost or doubled, tokens replaced by odd values or exchanged."""
    for _ in range(draw.randint(1, 3)):
        at, length = draw.randrange(len(content) + 1), draw.choice((1, 2, 8, 40))
        kind = draw.randrange(6)
        if kind == 0:
            content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        elif kind == 1:
            content = content[:at] + content[at + length :]
        elif kind == 2:
            content = content[:at] + content[at : at + length] * draw.randint(2, 4) + content[at + length :]
        elif kind == 3:
            content = content[:at] + draw.choice(ODD).encode() + content[at:]
        else:
            tokens = content.replace(b":", b" : ").replace(b",", b" , ").replace(b">", b"> ").replace(b"<", b" <")
            parts = tokens.split(b" ")
            one, other = draw.randrange(len(parts)), draw.randrange(len(parts))
            parts[one] = draw.choice(ODD).encode() if kind == 4 else parts[other]
            content = b" ".join(parts)
    return content


def data_sets(root: Path):
    """For each format a config and the file of it that is changed."""
    small = {"image_size": 64, "val": 0.0, "on_invalid": "fix"}
    sheets.voc_folder(root / "voc")
    yield "voc", Voc(name="voc", root=root / "voc", **small), root / "voc" / "Annotations" / "p1.xml"
    sheets.draw(root)
    (root / "coco.json").write_text(json.dumps(sheets.coco_content()))
    yield "coco", Coco(name="coco", root=root, train_file=root / "coco.json", **small), root / "coco.json"
    for kind in ("labels", "yaml"):
        folder = root / kind
        sheets.draw(folder / "images")
        (folder / "labels").mkdir()
        lines = "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n"
        for number in range(6):
            (folder / "labels" / f"p{number}.txt").write_text(lines)
        (folder / "data.yaml").write_text("path: .\ntrain: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n")
        changed = folder / "labels" / "p1.txt" if kind == "labels" else folder / "data.yaml"
        yield kind, YoloTxt(name="yolo_txt", file=folder / "data.yaml", **small), changed
    (root / "b.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax,split\n"
        + "".join(f"p{number}.png,0,0,cat,1,2,9.5,12,train\n" for number in range(6))
    )
    yield "csv", BoxCsv(name="box_csv", file=root / "b.csv", root=root, **small), root / "b.csv"


@pytest.mark.filterwarnings("error")
def test_changed_files_give_annotations_or_a_user_error(tmp_path):
    read, refused = 0, 0
    for kind, config, path in data_sets(tmp_path):
        whole = path.read_bytes()
        given_splits(config, CheckedAnnotations(read_annotations(config)))
        for number in range(MUTATIONS // 5):
            changed = mutated(whole, random.Random(f"{kind} {number}"))
            path.write_bytes(changed)
            try:
                splits, _ = given_splits(config, CheckedAnnotations(read_annotations(config)))
            except UserError as error:
                refused += 1
                str(error).encode()
            except Exception as error:
                raise AssertionError(f"{kind} {number}: {changed[-3000:]!r}") from error
            else:
                read += 1
                for records in splits.values():
                    assert np.isfinite(records.boxes_xyxy).all()
                    assert (records.labels > 0).all()
        path.write_bytes(whole)
    assert read > MUTATIONS // 20
    assert refused > MUTATIONS // 20
