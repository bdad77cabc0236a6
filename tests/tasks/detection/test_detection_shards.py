"""Annotated pictures in shards: the same as in COCO's files, and what is wrong with them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.data.survey import Place
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.convert import convert
from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
from mlcli.tasks.detection.data.build import build_source, read_annotations
from mlcli.tasks.detection.data.config import AnnotatedShards, Coco
from mlcli.tasks.detection.data.recognise import recognise
from tests.data.shard_files import picture, write_tar


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path):
    """Sixteen pictures with two boxes each, a mask and a crowd, ids of their own."""
    images, objects = [], []
    (tmp_path / "p").mkdir()
    for number in range(16):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(
            tmp_path / "p" / f"{number:02}.x.png"
        )
        images.append({"id": 100 - number, "file_name": f"{number:02}.x.png", "width": 60, "height": 40})
        for part in range(2):
            box = [3.3 + part, 4.7, 20.1, 10.2 + number]
            objects.append({"id": len(objects), "image_id": 100 - number, "category_id": (7, 3)[part], "bbox": box,
                            "iscrowd": int(number == 5 and part), "area": 77.5,
                            **({} if number % 2 else {"segmentation": [[4, 5, 20, 5, 20, 14]]})})  # fmt: skip
    categories = [{"id": 7, "name": "owl"}, {"id": 3, "name": "fox"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return Coco(name="coco", root=tmp_path / "p", train_file=tmp_path / "a.json", image_size=64, val=0.25)


def test_what_is_converted_is_the_same_data(coco, tmp_path):
    lines = convert(coco, "shards", tmp_path / "wds", 2**16)
    assert "16 pictures of train" in lines[0]
    data = AnnotatedShards(name="shards", root=tmp_path / "wds", image_size=64, val=0.25)
    was, now = build_source(coco), build_source(data)
    assert now.info == was.info
    assert [*now.splits] == [*was.splits] == ["train", "val"]
    for split, records in was.splits.items():
        others, rows = now.splits[split], np.arange(len(records))
        assert torch.equal(others.read(rows), records.read(rows))
        for name in ("ids", "sizes", "offsets", "boxes_xyxy", "labels", "crowd", "area"):
            assert np.array_equal(getattr(others, name), getattr(records, name)), name
        assert others.segmentations == records.segmentations
        assert np.asarray(others.original(0)).tolist() == np.asarray(records.original(0)).tolist()
    assert recognise(tmp_path / "wds") == [AnnotatedShards(name="shards", root=tmp_path / "wds")]
    assert Place(tmp_path / "wds", tmp_path).has_shards
    back = convert(data, "coco", tmp_path / "coco")
    assert "16 pictures and 32 boxes" in back[0]


def shard(tmp_path, *annotations):
    members = {}
    for number, told in enumerate(annotations):
        members[f"{number}.png"] = picture(number, 40)
        members[f"{number}.json"] = told if isinstance(told, bytes) else json.dumps(told).encode()
    write_tar(tmp_path / "s" / "train.tar", members)
    return AnnotatedShards(name="shards", root=tmp_path / "s", image_size=64, val=0)


BOX = {"bbox": [2, 3, 10, 12], "category": "owl"}


def test_classes_may_be_named_without_a_list(tmp_path):
    source = build_source(
        shard(tmp_path, {"annotations": [BOX]}, [BOX, {**BOX, "category": "fox", "bbox": [1, 1, 9, 9]}])
    )
    assert source.info.class_names == ("fox", "owl")
    assert source.splits["train"].labels.tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (b"{", "malformed"), (b"[" * 100_000, "malformed"), (b'{"boxes": []}', "malformed"), (b"\xff", "malformed"),
        ({"annotations": [{"bbox": [1, 2, 3]}]}, "malformed"), ({"annotations": ["x"]}, "malformed"),
        ({"id": 1, "annotations": [BOX]}, "duplicate_id"),
        ({"annotations": [{**BOX, "bbox": [90, 0, 5, 5]}]}, "outside"),
        ({"width": 99, "height": 12, "annotations": [BOX]}, "size_mismatch"),
    ],
)  # fmt: skip
def test_faults_name_shard_and_member(tmp_path, told, kind):
    data = shard(tmp_path, {"id": 1, "annotations": [BOX]}, told)
    faults = CheckedAnnotations(read_annotations(data)).faults
    assert kind in [fault.kind for fault in faults]
    assert all(fault.where.startswith("train.tar/1.png") for fault in faults)
    with pytest.raises(DataError, match="in the annotations"):
        build_source(data)


def test_a_picture_without_its_json_is_refused(tmp_path):
    write_tar(tmp_path / "s" / "train.tar", {"0.png": picture(0), "1.png": picture(1), "1.json": b"[]"})
    with pytest.raises(DataError, match=r"1 samples have no label member: train\.tar: 0"):
        read_annotations(AnnotatedShards(name="shards", root=tmp_path / "s"))
