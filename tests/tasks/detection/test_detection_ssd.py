"""SSD is torchvision's where the two can be compared: default boxes, losses, whole networks and their weights."""

import pytest
import torch
from pydantic import ValidationError
from torchvision.models import vgg
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.tasks.detection.models.ssd import vgg_layout, vgg_map_sizes, vgg_maps
from mlcli.tasks.detection.targets import Targets

from .overfit import detector, facts, two_rectangles

PAPER = {"name": "ssd", "backbone": "vgg16", "batch_norm": False}


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    net = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4, nms_thresh=0.5, detections_per_img=100)
    for layer in (*net.head.classification_head.module_list, *net.head.regression_head.module_list):
        torch.nn.init.normal_(layer.weight, std=1e-4)  # drawn anew, they are so sure that all scores tie at 1
        torch.nn.init.normal_(layer.bias, std=1.0)
    return net


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ssd300.pth"
    torch.save(theirs.state_dict(), path)
    return detector(facts(300, 300), **PAPER, weights=str(path))


def as_torchvision(targets: Targets) -> list[dict[str, torch.Tensor]]:
    rows = zip(targets.boxes_xyxy, targets.labels, targets.valid, strict=True)
    return [{"boxes": boxes[there], "labels": labels[there]} for boxes, labels, there in rows]


def test_vgg_default_boxes_are_torchvisions():
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    maps = [torch.zeros(1, 1, side, side) for side in (38, 19, 10, 5, 3, 1)]
    (expected,) = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)
    boxes_xyxy = vgg_layout((300, 300), batch_norm=False).boxes_xyxy
    assert boxes_xyxy.shape == (8732, 4)
    assert torch.allclose(boxes_xyxy, expected, atol=1e-3)


def test_the_papers_network_is_torchvisions_with_its_weights(ours, theirs):
    assert ours.notes == ("ssd vgg16 from ssd300.pth: loaded 71 of 71 tensors",)
    images, targets = two_rectangles(1, 300, 300)
    pictures = list(images.float() / 255)
    with torch.no_grad():
        terms, found = ours.eval()(images, targets)
        losses = theirs.train()(pictures, as_torchvision(targets))
        (expected,) = theirs.eval()(pictures)
    assert torch.allclose(terms["box"].mean, losses["bbox_regression"], rtol=1e-4)
    assert torch.allclose(terms["class"].mean, losses["classification"], rtol=1e-4)
    count = int((found.labels[0] > 0).sum())
    assert count > 20
    assert torch.allclose(found.scores[0, :20], expected["scores"][:20], atol=1e-4)
    overlap = box_iou(found.boxes_xyxy[0, :20], expected["boxes"][:30])
    assert (overlap.amax(dim=1) > 0.99).all()


@pytest.mark.parametrize("negatives", [3, 1], ids=["3 to 1", "1 to 1"])
def test_matching_mining_and_losses_are_torchvisions(negatives):
    _, targets = two_rectangles(3, 64, 96)
    targets = Targets(targets.boxes_xyxy.clone(), targets.labels.clone())
    targets.labels[1] = 0  # a picture without objects among others
    targets.boxes_xyxy[1] = 0
    net = detector(facts(64, 96), name="ssd", width=4, negatives=negatives)
    random = torch.Generator().manual_seed(0)
    boxes = len(net.boxes_xyxy)
    deltas = torch.randn(3, boxes, 4, generator=random)
    logits = torch.randn(3, boxes, 4, generator=random)
    terms = net.losses((deltas, logits), targets)

    backbone = torch.nn.Identity()
    backbone.out_channels = [8]
    reference = SSD(backbone, DefaultBoxGenerator([[2]]), (64, 96), 4, positive_fraction=1 / (1 + negatives))
    wanted = as_torchvision(targets)
    none = torch.full((boxes,), -1)
    matched = [
        reference.proposal_matcher(box_iou(t["boxes"], net.boxes_xyxy)) if len(t["boxes"]) else none for t in wanted
    ]
    outputs = {"bbox_regression": deltas, "cls_logits": logits}
    expected = reference.compute_loss(wanted, outputs, [net.boxes_xyxy] * 3, matched)
    assert sum((m >= 0).sum() for m in matched) > 8
    assert torch.allclose(terms["box"].mean, expected["bbox_regression"], rtol=1e-5)
    assert torch.allclose(terms["class"].mean, expected["classification"], rtol=1e-5)


@pytest.mark.parametrize("batch_norm", [True, False], ids=["batch norm", "plain"])
def test_imagenet_weights_find_their_place(batch_norm, tmp_path):
    """Convolutions one by one in order; linear layers thinned out into convolutions."""
    layers = vgg.make_layers(vgg.cfgs["D"], batch_norm).eval()
    inputs, neurons = torch.arange(25088.0), torch.arange(4096.0)
    linear = {
        # Every number, as the loader asks for; int16 is exact and half as large.
        "classifier.0.weight": inputs.short().repeat(4096, 1),
        "classifier.0.bias": neurons,
        "classifier.3.weight": neurons[:, None] + neurons / 4096,
        "classifier.3.bias": neurons,
        "classifier.6.bias": torch.zeros(1000),
    }
    path = tmp_path / "vgg16.pth"
    torch.save({f"features.{name}": tensor for name, tensor in layers.state_dict().items()} | linear, path)
    net = detector(facts(64, 64), name="ssd", backbone="vgg16", batch_norm=batch_norm, weights=str(path))
    path.unlink()  # 0.3 GB, which pytest would keep
    maps = net.backbone.eval()
    *stage5, fully_connected = maps.extra[0]
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stage4 = layers[: len(maps.features)](picture)
        assert torch.allclose(maps.features(picture), stage4, atol=1e-5)
        theirs = layers[len(maps.features) : -1](stage4)
        assert torch.allclose(torch.nn.Sequential(*stage5)(stage4), theirs, atol=1e-5)
    assert fully_connected[1].weight[5, 7, 2, 1] == inputs.view(512, 7, 7)[7, 6, 3]
    assert fully_connected[1].bias[5] == fully_connected[3].bias[5] == 20
    assert fully_connected[3].weight[5, 7, 0, 0] == linear["classifier.3.weight"][20, 28]
    assert "not in the file" in net.notes[1]
    assert net.notes[-1].endswith("not used: classifier.6.bias")


def test_weights_of_the_other_vgg_are_refused(ours, tmp_path):
    path = tmp_path / "plain.pth"
    torch.save({name: t for name, t in ours.state_dict().items() if name.startswith("backbone.features.0")}, path)
    with pytest.raises(CheckpointError, match="without batch normalisation") as caught:
        detector(facts(64, 64), name="ssd", backbone="vgg16", weights=str(path))
    assert "model.batch_norm to false" in caught.value.fix


def test_coco_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch, tmp_path, no_network):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        detector(facts(300, 300), **PAPER, weights="coco")
    assert "ssd300_vgg16_coco" in caught.value.where
    assert "download that address elsewhere" in caught.value.fix


def test_vgg_has_boxes_for_every_cell_of_every_map():
    for size in [(64, 64), (100, 170), (300, 300), (321, 512)]:
        with torch.device("meta"):
            backbone = vgg_maps(batch_norm=False, count=len(vgg_map_sizes(*size)))
        maps = [tuple(m.shape[2:]) for m in backbone(torch.zeros(1, 3, *size, device="meta")).values()]
        assert maps == vgg_map_sizes(*size)


def test_too_small_pictures_are_refused_by_vgg():
    with pytest.raises(ConfigError, match="64x64 or more, these are 48x100"):
        detector(facts(48, 100), name="ssd", backbone="vgg16")


def test_the_first_map_is_scaled_to_one_length():
    maps = vgg_maps(batch_norm=False, count=2).eval()
    with torch.no_grad():
        first = maps(torch.randn(1, 3, 64, 64))["0"]
    assert torch.allclose(first.norm(dim=1), torch.tensor(20.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weights": "imagenet"}, "are for backbone vgg16, not for compact"),
        ({"backbone": "vgg16", "weights": "coco"}, "set batch_norm to false"),
        ({"scales": [0.5, 0.5]}, "must rise"),
        ({"backbone": "vgg16", "scales": [0.1, 0.5]}, "are for other backbones than vgg16"),
    ],
    ids=["compact", "coco with batch norm", "scales of one size", "scales of the paper's network"],
)
def test_what_cannot_fit_is_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        detector(facts(64, 64), name="ssd", **section)


def test_default_boxes_have_the_sizes_asked_for():
    """Of four maps, the finest with 16 x 16 cells of six boxes; the first of a cell is its square."""
    plain, closer = (detector(facts(128, 128), name="ssd", **given) for given in ({}, {"scales": [0.25, 0.5]}))
    sides = closer.boxes_xyxy[:, 2] - closer.boxes_xyxy[:, 0]
    assert sides[0] == 32.0
    assert sides[16 * 16 * 6 + 8 * 8 * 6 + 4 * 4 * 6] == 64.0
    assert (plain.boxes_xyxy[0, 2] - plain.boxes_xyxy[0, 0]).item() == pytest.approx(12.8)
    assert closer.boxes_xyxy.shape == plain.boxes_xyxy.shape
