"""Detectors on a backbone of timm: trained, saved, rebuilt without the weight file; what does not fit is refused."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from mlcli.data.info import DataInfo
from mlcli.models.build import fine_tuning
from mlcli.models.config import FineTune
from mlcli.tasks.detection.models.build import build, class_rows, describe
from mlcli.tasks.detection.models.config import DetectionModel, without_weights
from mlcli.tasks.detection.targets import Targets

timm = pytest.importorskip("timm")

MODEL = TypeAdapter(DetectionModel)
INFO = DataInfo("image", (3, 64, 64), ("cat", "dog"), "boxes", (0.4,) * 3, (0.2,) * 3)
NAMES = ["yolo", "ssd", "retinanet", "fcos", "faster_rcnn"]


def config(name, weights="none"):
    backbone = {"name": "timm", "arch": "test_efficientnet", "weights": weights}
    return MODEL.validate_python({"name": name, "width": 4, "backbone": backbone})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_learns_and_is_rebuilt_from_its_own_state(name, weights):
    torch.manual_seed(0)
    asked = config(name, weights)
    detector = build(asked, INFO)
    expected = timm.get_pretrained_cfg("test_efficientnet").mean
    assert detector.mean.flatten().tolist() == pytest.approx(expected)
    assert any("loaded" in note for note in detector.notes)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    boxes = torch.tensor([[[8.0, 8, 40, 40]], [[20.0, 16, 60, 50]]])
    targets = Targets(boxes, torch.ones(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool))
    terms, _ = detector.train()(images, targets)
    sum(term.mean for term in terms.values()).backward()
    assert detector.get_parameter(next(n for n, _ in detector.named_parameters() if "conv_stem" in n)).grad.any()
    again = build(without_weights(asked), INFO)
    again.load_state_dict(detector.state_dict())
    ours, theirs = (one.eval()(images)[1] for one in (detector, again))
    assert torch.equal(ours.scores, theirs.scores)
    assert "timm test_efficientnet" in describe(asked)


def test_the_backbone_freezes_and_the_rest_is_the_head(weights):
    asked = config("yolo", weights)
    detector = build(asked, INFO)
    tuning = fine_tuning(
        detector, FineTune(freeze=("neck.backbone.*",), trunk_lr=0.1), class_rows(without_weights(asked), INFO)
    )
    assert tuning.frozen == {n for n, _ in detector.named_parameters() if n.startswith("neck.backbone.")}
    assert all(tuning.lr_scale(n) == 1 for n, _ in detector.named_parameters() if not n.startswith("neck.backbone."))


@pytest.mark.parametrize(
    "section",
    [
        {"name": "fast_rcnn", "backbone": {"name": "timm", "arch": "test_resnet"}},
        {"name": "fcos", "arch": "fcos_resnet50_fpn", "backbone": {"name": "timm", "arch": "test_resnet"}},
        {"name": "ssd", "weights": "imagenet", "backbone": {"name": "timm", "arch": "test_resnet"}},
        {"name": "yolo", "backbone": "vgg16"},
    ],
)
def test_what_does_not_go_together_is_refused(section):
    with pytest.raises(ValidationError):
        MODEL.validate_python(section)
