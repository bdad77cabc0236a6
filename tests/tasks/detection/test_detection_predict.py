"""What a saved detector says about files: in pixels of the originals, in every format, and how it is refused."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mlcli import load
from mlcli.commands import evaluate, predict, train
from mlcli.commands.predict import Wanted
from mlcli.data.info import DataInfo
from mlcli.engine.checkpoint import load_checkpoint, model_weights, save_checkpoint
from mlcli.errors import ConfigError, DataError
from mlcli.experiment import Experiment
from mlcli.saved import computing, load_predictor
from mlcli.tasks.detection.answers import DEFAULT_THRESHOLD
from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
from mlcli.tasks.detection.data.build import read_annotations
from mlcli.tasks.detection.masks import run_length
from mlcli.tasks.detection.predictor import ObjectDetector
from mlcli.tasks.detection.targets import Detections
from tests.tasks.detection.published import made_up, records_of

YAML = """
task: detection
data: {name: scenes, images: 20, image_size: 64}
model: {name: yolo, width: 4, score_threshold: 0.0001}
train: {epochs: 1, batch_size: 10, device: cpu, threads: 1}
"""
INFO = DataInfo(
    kind="image",
    input_shape=(3, 64, 96),
    class_names=("cat", "dog"),
    target="boxes",
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    preparation={"image_size": [64, 96], "fit": "pad", "channels": 3, "category_ids": [17, 18]},
)


def detector(tmp_path: Path, fit: str = "pad") -> ObjectDetector:
    (tmp_path / "run.yaml").write_text(YAML)
    config = Experiment.load(tmp_path / "run.yaml", []).config
    plain = INFO.to_plain() | {"preparation": {**INFO.preparation, "fit": fit}}
    return ObjectDetector(config, DataInfo.from_plain(plain))


def two_found(boxes: list, scores: tuple[float, float] = (0.9, 0.8), labels: tuple[int, int] = (1, 2)) -> Detections:
    return Detections(torch.tensor([boxes]), torch.tensor([[*scores, 0.0]]), torch.tensor([[*labels, 0]]))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_boxes_are_told_in_pixels_of_the_original(fit, tmp_path):
    """By the data set's own map, on pictures of other shapes than the input."""
    coco, _ = made_up(0, pictures=3)
    for image, size in zip(coco["images"], [(200, 60), (33, 90), (500, 500)], strict=True):
        image["width"], image["height"] = size
    coco["annotations"] = []
    records = records_of(coco, (64, 96), fit)
    found = detector(tmp_path, fit)
    truth = torch.tensor([[4.0, 5, 20, 30]])
    for index, size in enumerate(records.sizes.tolist()):
        inside = records.to_input(truth[None].double(), torch.tensor([index]))[0].float()
        (record,) = found.answers(Detections(inside[None], torch.tensor([[0.9]]), torch.tensor([[1]])), [tuple(size)])
        assert record["objects"][0]["bbox"] == pytest.approx([4, 5, 16, 25], abs=0.01)


def test_a_record_holds_what_is_certain_enough_and_inside(tmp_path):
    found = detector(tmp_path)
    boxes = [[-5.0, 10, 40, 100], [50.0, 20, 90, 60], [0.0, 0, 0, 0]]
    (record,) = found.answers(two_found(boxes, (0.9, 0.25)), [(96, 64)])
    assert record == {"objects": [{"label": "cat", "score": 0.9, "bbox": [0.0, 10.0, 40.0, 54.0]}]}
    found.adopt({"data": INFO.to_plain(), "score_threshold": 0.2})
    (record,) = found.answers(two_found(boxes, (0.9, 0.25)), [(96, 64)])
    assert [thing["label"] for thing in record["objects"]] == ["cat", "dog"]
    found.adopt({"data": INFO.to_plain()})
    assert found.score_threshold == DEFAULT_THRESHOLD


def test_of_two_names_for_one_place_the_likelier_is_told(tmp_path):
    boxes = [[10.0, 10, 50, 50], [11.0, 10, 50, 51], [0.0, 0, 0, 0]]
    (record,) = detector(tmp_path).answers(two_found(boxes), [(96, 64)])
    assert [thing["label"] for thing in record["objects"]] == ["cat"]


def test_coco_results_bear_the_data_sets_own_numbers(tmp_path):
    found = detector(tmp_path)
    (record,) = found.answers(two_found([[1.0, 2, 30, 40], [50.0, 20, 90, 60], [0.0] * 4]), [(96, 64)])
    assert found.coco_results(record, 7) == [
        {"image_id": 7, "category_id": 17, "score": 0.9, "bbox": [1.0, 2.0, 29.0, 38.0]},
        {"image_id": 7, "category_id": 18, "score": 0.8, "bbox": [50.0, 20.0, 40.0, 40.0]},
    ]


def test_masks_are_told_as_run_length_codes(tmp_path):
    found = Detections(
        torch.tensor([[[10.0, 10, 30, 20]]]), torch.tensor([[0.9]]), torch.tensor([[2]]), torch.ones(1, 1, 28, 28)
    )
    (record,) = detector(tmp_path, "stretch").answers(found, [(96, 64)])
    box = np.zeros((64, 96), dtype=bool)
    box[10:20, 10:30] = True
    code = record["objects"][0]["segmentation"]
    assert json.loads(json.dumps(code)) == {"size": [64, 96], "counts": run_length(box)["counts"].decode()}


def test_the_first_weights_follow_from_the_seed_alone(tmp_path):
    state = torch.random.get_rng_state()
    first, second = detector(tmp_path).model.state_dict(), detector(tmp_path).model.state_dict()
    assert torch.random.get_rng_state().equal(state)
    assert all(first[name].equal(second[name]) for name in first)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A finished run, and pictures of three shapes."""
    folder = tmp_path_factory.mktemp("detection")
    (folder / "run.yaml").write_text(YAML)
    train.run(folder / "run.yaml", [], name=None, resume=None, root=folder / "runs")
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for name, shape in (("a.png", (64, 64, 3)), ("b.jpg", (50, 200, 3)), ("c.png", (400, 300, 3))):
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(folder / "pictures" / name)
    return folder


ALL = {"": 0.0}
"""Thresholds above which everything is that a model finds."""


def ask(root: Path, output: Path | None = None, **options) -> str:
    wanted = {name: options.pop(name) for name in Wanted.__dataclass_fields__ if name in options}
    predict.run("run", [root / "pictures"], Wanted(**wanted), output=output, root=root / "runs", **options)
    return output.read_text() if output is not None and output.is_file() else ""


def test_all_formats_say_the_same(root, tmp_path):
    """The model has hardly learned, so anything above nothing is asked for."""
    lines = [json.loads(line) for line in ask(root, tmp_path / "a.jsonl", thresholds=ALL, top=5).splitlines()]
    results = json.loads(ask(root, tmp_path / "a.json", thresholds=ALL, top=5))
    rows = list(csv.DictReader(ask(root, tmp_path / "a.csv", thresholds=ALL, top=5).splitlines()))
    assert [Path(line["input"]).name for line in lines] == ["a.png", "b.jpg", "c.png"]
    told = [(line["input"], thing) for line in lines for thing in line["objects"]]
    assert 3 <= len(told) == len(results) == len(rows)
    for (name, thing), result, row in zip(told, results, rows, strict=True):
        assert (result["file_name"], result["bbox"], result["score"]) == (name, thing["bbox"], thing["score"])
        assert result["category_id"] == int(thing["label"]) + 1  # digits 0..9 are categories 1..10
        assert (row["input"], row["label"], float(row["score"])) == (name, thing["label"], thing["score"])
        assert [float(row[side]) for side in ("left", "top", "width", "height")] == thing["bbox"]
        with Image.open(name) as image:
            left, top, width, height = thing["bbox"]
            assert left >= 0
            assert top >= 0
            assert left + width <= image.width + 0.01
            assert top + height <= image.height + 0.01
    for line in lines:
        scores = [thing["score"] for thing in line["objects"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) <= 5


def test_the_results_can_be_read_by_coco_tools(root, tmp_path):
    from faster_coco_eval import COCO

    results = json.loads(ask(root, tmp_path / "a.json", thresholds=ALL))
    truth = {
        "images": [{"id": n, "width": 300, "height": 400} for n in (1, 2, 3)],
        "categories": [{"id": k, "name": str(k - 1)} for k in range(1, 11)],
        "annotations": [],
    }
    assert len(COCO(truth).loadRes(results).anns) == len(results) > 0


def test_pictures_without_an_object_are_answered_too(root, tmp_path):
    lines = [json.loads(line) for line in ask(root, tmp_path / "a.jsonl", thresholds={"": 1.0}).splitlines()]
    assert [line["objects"] for line in lines] == [[], [], []]
    assert json.loads(ask(root, tmp_path / "a.json", thresholds={"": 1.0})) == []
    rows = list(csv.DictReader(ask(root, tmp_path / "a.csv", thresholds={"": 1.0}).splitlines()))
    assert [(row["label"], row["error"]) for row in rows] == [("", "")] * 3


def test_answers_are_drawn_at_a_readable_size(root, tmp_path):
    ask(root, tmp_path / "a.jsonl", thresholds={"": 1.0}, pictures=tmp_path / "shown")
    sizes = {path.name: Image.open(path).size for path in sorted((tmp_path / "shown").glob("*.png"))}
    assert sizes == {
        "00001-0_objects-a.png": (512, 512),
        "00002-0_objects-b.png": (600, 150),
        "00003-0_objects-c.png": (600, 800),
    }


def test_tiles_of_the_pictures_own_size_change_nothing(root, tmp_path, capsys):
    whole = ask(root, tmp_path / "a.jsonl", thresholds=ALL)
    assert ask(root, tmp_path / "b.jsonl", thresholds=ALL, tiles=400) == whole
    said = capsys.readouterr().out
    assert "3 of 3 answered" in said
    assert "3 tiles of 400x400 pixels in 3 pictures, overlapping by 20 % or more" in said
    result = evaluated(root)
    assert {**result["metrics"], "loss": None} == {**evaluated(root, tiles=64)["metrics"], "loss": None}
    assert (next((root / "runs").glob("run/*/evaluation-test-tiles.json"))).is_file()


def evaluated(root: Path, **options) -> dict:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate.run("run", root=root / "runs", as_json=True, **options)
    return json.loads(printed.getvalue())


def test_classes_may_have_thresholds_of_their_own(tmp_path):
    found = detector(tmp_path)
    boxes = [[0.0, 0, 40, 40], [50.0, 20, 90, 60], [0.0, 0, 0, 0]]
    for texts, told in (
        (["0.5"], ["cat", "dog"]),
        (["0.5", "dog=0.85"], ["cat"]),
        (["cat=0.95", "dog=0"], ["dog"]),
        (["1", "dog=0.8"], ["dog"]),
    ):
        predict.prepared(found, None, Wanted(thresholds=predict.thresholds_typed(texts)))
        (record,) = found.answers(two_found(boxes, (0.9, 0.8)), [(96, 64)])
        assert [thing["label"] for thing in record["objects"]] == told
    with pytest.raises(ConfigError) as error:
        predict.prepared(found, None, Wanted(thresholds={"dgo": 0.2}))
    assert error.value.fix == "--threshold dog=0.2"
    with pytest.raises(ConfigError, match="high does not") as error:
        predict.thresholds_typed(["0.5", "dog=high"])
    assert error.value.fix == "--threshold dog=0.3"


def test_a_model_looks_at_another_size(root, tmp_path):
    """Of twice the input's pixels the model sees what it would see of pictures of twice the size."""
    objects = json.loads(ask(root, tmp_path / "a.jsonl", thresholds=ALL, size=128).splitlines()[0])["objects"]
    predictor, runtime = load_predictor("run", "best", root / "runs", 128)
    assert predictor.info.input_shape == (3, 128, 128)
    inputs = predictor.inputs([root / "pictures" / "a.png"])
    pixels = inputs.read([0])[1]
    assert pixels.shape == (1, 3, 128, 128)
    predictor.score_threshold = 0.0
    assert predictor.records(computing(predictor, runtime)(pixels), inputs, [0])[0]["objects"] == objects
    with pytest.raises(ConfigError, match="drawn at the size"):
        evaluated(root, size=128)
    data = {"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}], "annotations": [], "categories": []}
    data["categories"] = [{"id": k + 1, "name": str(k)} for k in range(10)]
    data["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}]
    (tmp_path / "data.json").write_text(json.dumps(data))
    shutil.copy(root / "pictures" / "a.png", tmp_path)
    result = evaluated(root, size=96, on=tmp_path / "data.json")
    assert "images are brought to 96x96 pixels, in training to 64x64" in result["notes"]


def test_python_asks_as_the_command_does_and_each_time_anew(root, tmp_path):
    run, photos = load("run", root=root / "runs"), root / "pictures"
    before, usual = run.predict(photos), load_predictor("run", "best", root / "runs")[0].score_threshold
    for options in ({"tiles": 64, "overlap": 0.5}, {"size": 128, "top": 3}, {"tiles": 100}, {"size": 32}, {}):
        lines = ask(root, tmp_path / "a.jsonl", thresholds=ALL, **options).splitlines()
        found = run.predict(photos, threshold=0, **options)
        assert found == [json.loads(line) for line in lines]
        surest = found[2]["objects"][0]
        named = run.predict(photos, threshold={surest["label"]: 0.0}, **options)
        kept = [[thing for thing in each["objects"] if thing["label"] == surest["label"] or thing["score"] >= usual]
                for each in found]  # fmt: skip
        assert [each["objects"] for each in named] == kept
    assert run.predict(photos) == before
    for options in ({"tiles": 40, "overlap": 0.5}, {}):
        assert run.evaluate(**options)["metrics"] == evaluated(root, **options)["metrics"]
    with pytest.raises(ConfigError, match="drawn at the size"):
        run.evaluate(size=128)
    for options, said in (({"overlap": 0.5}, "only tiles overlap"), ({"threshold": 2}, "2 does not")):
        with pytest.raises(ConfigError, match=said):
            run.predict(photos, **options)


def test_a_model_that_has_weights_for_its_size_refuses_another(tmp_path):
    yaml_of_ssd = YAML.replace("name: yolo, width: 4", "name: ssd, width: 4")
    (tmp_path / "ssd.yaml").write_text(yaml_of_ssd)
    train.run(tmp_path / "ssd.yaml", [], name=None, resume=None, root=tmp_path / "runs")
    with pytest.raises(ConfigError, match="other weights for inputs of 512 pixels"):
        load_predictor("ssd", "best", tmp_path / "runs", 512)


def test_what_tiles_find_lies_in_the_picture(root, tmp_path):
    lines = [json.loads(line) for line in ask(root, tmp_path / "a.jsonl", thresholds=ALL, tiles=64).splitlines()]
    for line, (width, height) in zip(lines, [(64, 64), (200, 50), (300, 400)], strict=True):
        boxes = np.array([thing["bbox"] for thing in line["objects"]])
        assert boxes.min() >= 0
        assert ((boxes[:, :2] + boxes[:, 2:]).max(axis=0) <= [width + 0.01, height + 0.01]).all()
    result = evaluated(root, tiles=40, overlap=0.5)
    assert result["tiles"] == {"side": 40, "overlap": 0.5}
    assert "loss" not in result["metrics"]
    assert "36 tiles of 40x40 pixels in 4 pictures" in result["caveat"]


def test_a_bad_file_has_its_reason(root, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 2"):
        predict.run(
            "run", [tmp_path / "bad.png", root / "pictures/a.png"], output=tmp_path / "a.json", root=root / "runs"
        )
    assert all(result["file_name"].endswith("a.png") for result in json.loads((tmp_path / "a.json").read_text()))


def test_a_model_that_computes_nan_does_not_pass_for_one_that_finds_nothing(root, tmp_path):
    shutil.copytree(root / "runs", tmp_path / "runs")
    (path,) = (tmp_path / "runs").glob("run/*/checkpoints/best.ckpt")
    saved = load_checkpoint(path)
    weights = model_weights(saved)
    next(tensor for name, tensor in weights.items() if name.endswith("weight")).fill_(float("nan"))
    path.unlink()
    save_checkpoint(path, saved)
    with pytest.raises(DataError, match="3 of 3"):
        predict.run("run", [root / "pictures"], output=tmp_path / "a.jsonl", root=tmp_path / "runs")
    assert "not finite" in (tmp_path / "a.jsonl").read_text()
    with pytest.raises(DataError, match="3 of 3"):
        predict.run("run", [root / "pictures"], Wanted(tiles=48), output=tmp_path / "b.jsonl", root=tmp_path / "runs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": {"": 1.5}}, "1.5 does not"),
        ({"output": Path("a.xml")}, "format of a.xml"),
        ({"thresholds": {"x": 0.1}}, "no class 'x'"),
        ({"size": 100}, "multiples of 32"),
        ({"overlap": 0.1}, "only tiles overlap"),
        ({"tiles": 3}, "a tile of 3 pixels"),
        ({"tiles": 16, "overlap": 1.0}, "1 is none"),
    ],
    ids=["threshold", "format", "class", "size", "overlap of nothing", "tiny", "all"],
)
def test_what_is_refused(root, options, message):
    with pytest.raises(ConfigError, match=message):
        ask(root, **options)


@pytest.mark.parametrize("format", ["yolo_txt", "voc", "coco", "csv"])
def test_answers_become_a_data_set_that_is_read_back(root, tmp_path, format, capsys):
    """Labels that a person only has to correct; the section that is printed reads them."""
    out = tmp_path / "labelled"
    ask(root, out, to=format, thresholds=ALL, top=5)
    section = yaml.safe_load(capsys.readouterr().out.partition("by the section\n")[2].partition("\n\n")[0])
    lines = [json.loads(line) for line in ask(root, tmp_path / "a.jsonl", thresholds=ALL, top=5).splitlines()]
    (out / "x.yaml").write_text(yaml.safe_dump({"task": "detection", **section, "model": {"name": "yolo"}}))
    annotations = read_annotations(Experiment.load(out / "x.yaml", ["data.image_size=64"]).config.data)
    checked = CheckedAnnotations(annotations)
    assert checked.faults == []
    assert [Path(picture.path).name for picture in annotations.pictures] == ["a.png", "b.jpg", "c.png"]
    for number, line in enumerate(lines):
        mine = checked.picture_of == number
        names = [thing.name for thing in annotations.objects if thing.picture == number]
        told = [(thing["label"], *thing["bbox"]) for thing in line["objects"] if min(thing["bbox"][2:]) > 0]
        boxes = checked.boxes_xyxy[mine]
        read = [(name, *box[:2], *(box[2:] - box[:2])) for name, box in zip(names, boxes, strict=True)]
        assert [row[0] for row in read] == [row[0] for row in told]
        np.testing.assert_allclose([row[1:] for row in read], [row[1:] for row in told], atol=0.01)


def test_results_have_the_ids_of_the_data_set(root, tmp_path):
    images = [
        {"id": 900, "file_name": "pictures/c.png"},
        {"id": "41", "file_name": "b.jpg"},
        {"id": 7, "file_name": "a.png"},
    ]
    content = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "ids.json").write_text(json.dumps(content))
    options = {"thresholds": ALL, "top": 2, "image_ids": tmp_path / "ids.json"}
    results = json.loads(ask(root, tmp_path / "a.json", **options))
    assert {(Path(one["file_name"]).name, one["image_id"]) for one in results} == {
        ("a.png", 7),
        ("b.jpg", 41),
        ("c.png", 900),
    }
    (tmp_path / "ids.json").write_text(json.dumps(content | {"images": images[1:]}))
    with pytest.raises(DataError, match=r"c\.png is not among the images"):
        ask(root, tmp_path / "b.json", **options)


def test_a_data_set_needs_a_format_and_a_folder(root, tmp_path):
    for options in ({"to": "nonsense", "output": tmp_path / "x"}, {"to": "voc"}):
        with pytest.raises(ConfigError, match=r"format|folder"):
            ask(root, **options)
