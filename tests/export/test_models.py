"""Every kind of model through both formats: the file read again gives the model's numbers, for any number of samples.

Models are tiny and untrained, with weights large enough for their answers to differ.
"""

import copy
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlcli.data.info import DataInfo
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.experiment import Experiment
from mlcli.export import write
from mlcli.export.facts import Facts
from mlcli.export.file import open_exported, random_inputs
from mlcli.export.verify import verify
from mlcli.export.write import Form, exported, load_pt2
from mlcli.tasks.detection.answers import LEAST_IOU, MOST_SCORE_ERROR
from tests.reliability.soak import LONG

IMAGES = DataInfo(
    kind="image",
    input_shape=(3, 32, 32),
    class_names=("cat", "dog", "fox"),
    target="label",
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    preparation={"image_size": [32, 32], "fit": "pad", "channels": 3},
)
TABLE = DataInfo(
    kind="features",
    input_shape=(5,),
    class_names=("cat", "dog", "fox"),
    target="label",
    mean=(0.1, 0.2, 0.3, 0.4, 0.5),
    std=(1.0, 2.0, 3.0, 4.0, 5.0),
    preparation={
        "features": [*"abcde"],
        "columns": [{"name": name, "kind": "number", "missing": 0.0} for name in "abcde"],
    },
)


def predictor_of(task: str, model: dict[str, Any], info: DataInfo, data: str) -> Any:
    plain = {"task": task, "data": {"name": data}, "model": model, "train": {"device": "cpu", "threads": 1}}
    experiment = Experiment.from_plain(plain)
    facts = {"task": task, "data": info.to_plain()}
    predictor = experiment.builder.build_predictor(experiment.config, facts)
    predictor.adopt(facts)
    predictor.model.eval()
    generator = torch.Generator().manual_seed(0)
    for layer in predictor.model.modules():  # statistics that a batch norm would not do without
        if isinstance(layer, torch.nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return predictor


def facts_of(predictor: Any, task: str) -> Facts:
    answers = predictor.answer_facts()
    return Facts(format=1, mlcli="", torch="", task=task, run="r", epoch=1, model={}, answers=answers, batch=None)


def own(predictor: Any, inputs: np.ndarray, model: Any = None) -> list[np.ndarray]:
    with torch.inference_mode():
        found = predictor.outputs_of(predictor.predict(model or predictor.model, torch.from_numpy(inputs)))
    return [part.numpy() for part in found]


def through(to: str, predictor: Any, task: str, tmp_path: Path, inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs of the file, as another program has them."""
    content = exported(predictor, facts_of(predictor, task), Form(to))
    if to == "pt2":
        with torch.no_grad():
            return [part.numpy() for part in load_pt2(content)(torch.from_numpy(inputs))]
    (tmp_path / "m.onnx").write_bytes(content)
    return open_exported(tmp_path / "m.onnx", threads=1).outputs(inputs)


SAMPLES = [
    ("linear", "classification", {"name": "linear"}, TABLE, "iris"),
    ("mlp of a table", "classification", {"name": "mlp", "hidden": [4]}, TABLE, "iris"),
    ("mlp", "classification", {"name": "mlp", "hidden": [4]}, IMAGES, "cifar10"),
    ("cnn", "classification", {"name": "cnn"}, IMAGES, "cifar10"),
    ("vgg", "classification", {"name": "vgg", "depth": 11, "width": 0.1}, IMAGES, "cifar10"),
    ("resnet", "classification", {"name": "resnet", "depth": 18, "width": 0.1}, IMAGES, "cifar10"),
    ("torchvision", "classification", {"name": "torchvision", "arch": "squeezenet1_1"}, IMAGES, "cifar10"),
    ("timm", "classification", {"name": "timm", "arch": "test_resnet"}, IMAGES, "cifar10"),
    ("regression", "regression", {"name": "mlp", "hidden": [4]}, TABLE, "diabetes"),
]


@pytest.mark.parametrize("to", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("task", "model", "info", "data"), [one[1:] for one in SAMPLES], ids=[one[0] for one in SAMPLES]
)
def test_models_of_samples(task, model, info, data, to, tmp_path):
    if to == "pt2" and model["name"] in ("vgg", "resnet", "torchvision", "timm") and not LONG:
        pytest.skip("the ONNX file comes from the same graph")
    if task == "regression":
        info = replace(info, class_names=(), preparation=info.preparation | {"target_mean": 30.0, "target_std": 7.0})
    predictor = predictor_of(task, model, info, data)
    inputs = random_inputs(info.input_shape, info.kind, 7)  # another number than it was traced with
    ours, theirs = own(predictor, inputs), through(to, predictor, task, tmp_path, inputs)
    assert np.ptp(ours[0], axis=0).min() > 1e-6, "the same answer for all would prove nothing"
    np.testing.assert_allclose(theirs[0], ours[0], rtol=1e-4, atol=1e-6)
    assert all(check.passed for check in predictor.compare(ours, theirs))
    assert not all(check.passed for check in predictor.compare(ours, [theirs[0][::-1] * -1]))


COMMON = {"width": 4, "score_threshold": 1e-5, "max_detections": 20, "nms_iou": 0.45}
WINDOWS = COMMON | {"proposals": {"most": 60}}
ANCHORS = {"anchors_wh": [[8, 8], [16, 12], [14, 20], [30, 30]]}
DETECTORS = {
    "yolo": (COMMON, {}),
    "yolo of anchors": (COMMON | {"head": "anchors", "anchors_per_stride": 2, "strides": [8, 16]}, ANCHORS),
    "yolo soft": (COMMON | {"nms": "soft"}, {}),
    "yolo diou": (COMMON | {"nms": "diou"}, {}),
    "ssd": (COMMON, {}),
    "retinanet": (COMMON, {}),
    "fcos": (COMMON, {}),
    "rcnn": (WINDOWS | {"crop": 16}, {}),
    "fast_rcnn": (WINDOWS, {}),
    "fast_rcnn align": (WINDOWS | {"roi": "align"}, {}),
}


@pytest.fixture(scope="module")
def yolo() -> Any:
    model, more = DETECTORS["yolo"]
    info = replace(IMAGES, target="boxes", preparation=IMAGES.preparation | more)
    predictor = predictor_of("detection", model | {"name": "yolo"}, info, "scenes")
    with torch.no_grad():
        for what in predictor.model.head.what:
            what[-1].weight.mul_(100)  # for scores as of a trained one
    return predictor


@pytest.mark.skipif(not LONG, reason="10 to 30 s each; one goes through the whole command in test_export.py")
@pytest.mark.parametrize("to", ["onnx", "pt2"])
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors(name, to, tmp_path):
    model, more = DETECTORS[name]
    info = replace(IMAGES, target="boxes", preparation=IMAGES.preparation | more)
    predictor = predictor_of("detection", model | {"name": name.split()[0]}, info, "scenes")
    inputs = random_inputs(info.input_shape, "image", 3)
    ours, theirs = own(predictor, inputs), through(to, predictor, "detection", tmp_path, inputs)
    assert (ours[2] > 0).sum() >= 9, "what finds nothing would prove nothing"
    assert np.ptp(ours[1][ours[2] > 0]) > 1e-5
    objects, iou, score, _, alike = predictor.compare(ours, theirs)
    assert alike.passed, alike
    assert iou.passed, (objects, iou, score)
    assert float(iou.value) > 0.9999, (objects, iou, score)
    assert float(score.value) < 1e-5
    moved = predictor.compare(ours, [theirs[0] + 8, *theirs[1:]])
    assert not moved[1].passed


def of_weights_changed_by(predictor: Any, share: float) -> Any:
    """The model's outputs with each weight another by this share, as a file's are of other sums and other rounding."""
    other, generator = copy.deepcopy(predictor.model), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1 + share * torch.randn(weight.shape, generator=generator))
    return lambda inputs: own(predictor, inputs, other)


def wrong_on_two(predictor: Any, change: Any) -> Any:
    """The model's own outputs, but for two samples."""

    def outputs(inputs: np.ndarray) -> list[np.ndarray]:
        parts = own(predictor, inputs)
        for row in (7, 33):
            change(*(part[row] for part in parts))
        return parts

    return outputs


def moved(boxes: np.ndarray, *_: np.ndarray) -> None:
    boxes += 3


def renamed(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    labels[:] = np.where(labels > 0, labels % 3 + 1, 0)


def less_sure(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    scores *= 0.9


def without_the_last(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    last = (labels > 0).sum() - 1
    boxes[last], scores[last], labels[last] = 0, 0, 0


@pytest.mark.parametrize("change", [moved, renamed, less_sure, without_the_last])
def test_a_detector_that_is_wrong_in_one_picture_of_thirty_is_not_verified(change, yolo):
    found = verify(yolo, wrong_on_two(yolo, change), DataError("none"), (1, 1))
    told = {name: (value, bar) for name, _, value, bar in found.rows}
    assert told["pictures alike"] == ("62 of 64", "all")
    assert float(told["IoU of them"][0]) > LEAST_IOU, "what the mean of all would have let pass"
    assert float(told["score differs by"][0]) < MOST_SCORE_ERROR
    assert not found.passed


def test_rounding_is_no_difference_and_other_weights_are(yolo):
    assert verify(yolo, of_weights_changed_by(yolo, 1e-6), DataError("none"), (1, 1)).passed
    assert not verify(yolo, of_weights_changed_by(yolo, 0.01), DataError("none"), (1, 1)).passed


def test_a_classifier_that_is_wrong_on_one_sample_of_thirty_is_not_verified():
    predictor = predictor_of("classification", {"name": "mlp", "hidden": [4]}, TABLE, "iris")

    def blurred(probabilities: np.ndarray) -> None:
        probabilities += 0.2 * (np.eye(3, dtype=np.float32)[probabilities.argmax()] - probabilities)

    found = verify(predictor, wrong_on_two(predictor, blurred), DataError("none"), (1, 1))
    assert ["same top-1", "", "64 of 64", "all"] in found.rows
    assert not found.passed
    assert verify(predictor, lambda inputs: own(predictor, inputs), DataError("none"), (1, 1)).passed


def test_a_regression_that_is_wrong_on_one_sample_of_thirty_is_not_verified():
    info = replace(TABLE, class_names=(), preparation=TABLE.preparation | {"target_mean": 30.0, "target_std": 7.0})
    predictor = predictor_of("regression", {"name": "mlp", "hidden": [4]}, info, "diabetes")
    inputs = random_inputs(info.input_shape, info.kind, 64)
    ours = own(predictor, inputs)
    theirs = [ours[0].copy()]
    theirs[0][[7, 33]] += 0.02 * ours[0].std()
    checks = {check.name: check for check in predictor.compare(ours, theirs)}
    assert checks["cosine"].passed
    assert not checks["of their spread"].passed
    assert all(check.passed for check in predictor.compare(ours, [ours[0] * (1 + 1e-5)]))


@pytest.mark.parametrize(
    ("model", "layer", "why"),
    [
        ({"name": "faster_rcnn"}, "FasterRcnnDetector", "depends on the picture"),
        ({"name": "mask_rcnn"}, "MaskRcnnDetector", "depends on the picture"),
        ({"name": "fast_rcnn", "proposals": {"method": "selective_search"}}, "FastRcnnDetector", "only method sliding"),
        ({"name": "rcnn", "proposals": {"method": "rpn", "run": "r"}}, "RcnnDetector", "only method sliding"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_detectors_without_such_a_form_are_refused_by_name(model, layer, why):
    predictor = predictor_of("detection", {"width": 4} | model, replace(IMAGES, target="boxes"), "scenes")
    with pytest.raises(ConfigError, match=why) as told:
        exported(predictor, facts_of(predictor, "detection"), Form("pt2"))
    assert told.value.where == f"model: {layer}"


class Undecided(torch.nn.Module):
    """Goes another way by the values of its input: no graph does that."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, :3] if inputs.sum() > 0 else inputs[:, 2:]


def test_a_model_that_cannot_be_traced_is_refused_with_its_layer():
    predictor = predictor_of("classification", {"name": "mlp", "hidden": [4]}, TABLE, "iris")
    predictor.model = torch.nn.Sequential(torch.nn.Identity(), Undecided())
    with pytest.raises(ConfigError, match="cannot be exported") as told:
        exported(predictor, facts_of(predictor, "classification"), Form("pt2"))
    assert told.value.where == "layer: net.1 (Undecided)"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_what_installs_it(package, monkeypatch):
    predictor = predictor_of("classification", {"name": "linear"}, TABLE, "iris")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(ConfigError, match=rf"needs {package}, not installed") as told:
        exported(predictor, facts_of(predictor, "classification"), Form("onnx"))
    assert told.value.fix == "pip install 'mlcli[onnx]'"


def test_reading_without_onnxruntime_says_what_installs_it(tmp_path, monkeypatch):
    predictor = predictor_of("classification", {"name": "linear"}, TABLE, "iris")
    (tmp_path / "m.onnx").write_bytes(exported(predictor, facts_of(predictor, "classification"), Form("onnx")))
    with pytest.raises(CheckpointError, match="fails"):
        open_exported(tmp_path / "m.onnx").outputs(np.zeros((2, 4), np.float32))
    with pytest.raises(CheckpointError, match="fails"):
        open_exported(tmp_path / "m.onnx").outputs(np.zeros((2, 5), np.uint8))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="onnxruntime") as told:
        open_exported(tmp_path / "m.onnx")
    assert told.value.fix == "pip install 'mlcli[onnx]'"


def test_a_file_of_a_fixed_number_of_samples_takes_any_by_filling_up(tmp_path):
    predictor = predictor_of("classification", {"name": "mlp", "hidden": [4]}, TABLE, "iris")
    facts = facts_of(predictor, "classification").model_copy(update={"batch": 4})
    (tmp_path / "m.onnx").write_bytes(exported(predictor, facts, Form("onnx", 4)))
    inputs = random_inputs((5,), "features", 6)
    np.testing.assert_allclose(open_exported(tmp_path / "m.onnx").outputs(inputs)[0], own(predictor, inputs)[0], 1e-5)
    lying = facts.model_copy(update={"batch": 3})
    (tmp_path / "m.onnx").write_bytes(exported(predictor, lying, Form("onnx", 4)))
    with pytest.raises(CheckpointError, match="takes 4 samples at once, and its metadata say 3"):
        open_exported(tmp_path / "m.onnx")


def test_a_loop_is_not_written_in_half_precision():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    body = helper.make_graph([helper.make_node("Identity", ["s"], ["t"])], "body", [], [])
    node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    with pytest.raises(ConfigError, match=r"has a loop \(Scan\)"):
        write.halved(helper.make_model(helper.make_graph([node], "g", [value], [])))


def test_the_memory_that_answering_took_is_told():
    predictor = predictor_of("classification", {"name": "mlp", "hidden": [4]}, TABLE, "iris")

    def greedy(inputs: np.ndarray) -> list[np.ndarray]:
        assert np.ones(2**25)[-1] == 1  # 256 MiB
        return own(predictor, inputs)

    rows = {row[0]: row for row in verify(predictor, greedy, DataError("none"), (1, 1)).rows}
    if not Path("/proc/self/clear_refs").exists():
        assert "memory to answer" not in rows
        return
    _, ours, theirs, _ = rows["memory to answer"]
    assert 250 < float(theirs.removesuffix(" MB")) < 400
    assert not ours.endswith(" MB") or float(ours.removesuffix(" MB")) < 100
