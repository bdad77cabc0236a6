"""torchvision's four detectors in our contract: the same losses and detections as by its own calls, and its traps."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, box_iou

from mlcli.engine.terms import total
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.tasks.detection.masks import decode, pasted
from mlcli.tasks.detection.models import torchvision_nets
from mlcli.tasks.detection.models.torchvision_detectors import OneStage

from .overfit import detector, facts
from .rectangles import check_detections, found_share, learn_by_heart, rectangles

TERMS = {
    "faster_rcnn": {"rpn_objectness", "rpn_box", "class", "box"},
    "mask_rcnn": {"rpn_objectness", "rpn_box", "class", "box", "mask"},
    "retinanet": {"class", "box"},
    "fcos": {"class", "box", "centerness"},
}
THEIR_NAMES = {
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "mask": "loss_mask",
    "centerness": "bbox_ctrness",
}

COCO = detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # the background first

every_name = pytest.mark.parametrize("name", TERMS)


def lists(net, images, targets):
    """The same batch as torchvision wants it."""
    shift = 1 if isinstance(net, OneStage) else 0
    found = []
    for b, n in enumerate(targets.valid.sum(dim=1).tolist()):
        found.append({"boxes": targets.boxes_xyxy[b, :n], "labels": targets.labels[b, :n] - shift})
        if targets.masks is not None:
            found[-1]["masks"] = targets.masks[b, :n]
    return list(net.normalize(images)), found


@every_name
def test_a_batch_is_learned_by_heart(name):
    images, targets = rectangles(64, 64, 3)
    net = detector(facts(64, 64), name=name, width=8)
    losses, found = learn_by_heart(net, images, targets)
    assert losses[-1] < losses[0]
    assert found_share(found, targets) >= 0.85
    check_detections(found, 3, 64, 64, 3, 100)
    if name == "mask_rcnn":
        assert found.masks.shape == (3, 100, 28, 28)
        assert mask_overlap(found, targets) > 0.6
    else:
        assert found.masks is None


def mask_overlap(found, targets):
    """Mean over the objects, some of which hide others, of the best mask IoU of a detection scored above 0.5."""
    best = []
    for picture, row in targets.valid.nonzero().tolist():
        truth = targets.masks[picture, row].numpy() > 0
        ious = [0.0]
        sure = found.scores[picture] > 0.5
        sizes_wh = np.array([truth.shape[::-1]] * int(sure.sum())).reshape(-1, 2)
        for code in pasted(found.masks[picture, sure], found.boxes_xyxy[picture, sure].numpy(), sizes_wh)[0]:
            mask = decode(code, *truth.shape)
            ious.append((mask & truth).sum() / (mask | truth).sum())
        best.append(max(ious))
    return sum(best) / len(best)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        *((name, None) for name in TERMS),
        ("faster_rcnn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
        ("retinanet", "retinanet_resnet50_fpn"),
    ],
    ids=lambda value: value or "compact",
)
def test_losses_and_detections_are_torchvisions(name, arch):
    images, targets = rectangles(64, 96)
    net = detector(facts(64, 96), name=name, arch=arch, width=8, score_threshold=0.001, max_detections=20)
    for norm in net.modules():  # or the first pass would change the second
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    net.net.transform._skip_resize = True  # it draws a random number for each picture, even if there is one size only
    pixels, boxes = lists(net, images, targets)
    torch.manual_seed(3)
    terms, nothing_found = net(images, targets)
    torch.manual_seed(3)  # their samplers draw from the global generator
    theirs = net.net(pixels, boxes)
    assert nothing_found is None
    assert set(terms) == TERMS[name]
    one_stage = name in ("retinanet", "fcos")
    names = THEIR_NAMES | (
        {"class": "classification", "box": "bbox_regression"}
        if one_stage
        else {"class": "loss_classifier", "box": "loss_box_reg"}
    )
    for ours, term in terms.items():
        torch.testing.assert_close(term.mean, theirs[names[ours]])

    net.eval()
    with torch.no_grad():
        _, found = net(images)
        expected = net.net(pixels)
    for b, one in enumerate(expected):
        n = len(one["scores"])
        assert int((found.labels[b] > 0).sum()) == n > 0
        torch.testing.assert_close(found.scores[b, :n], one["scores"])
        torch.testing.assert_close(found.boxes_xyxy[b, :n], one["boxes"])
        assert torch.equal(found.labels[b, :n], one["labels"] + one_stage)


@every_name
def test_pictures_without_objects(name):
    net = detector(facts(64, 64), name=name, width=4)
    for images, targets in (rectangles(64, 64, 3, empty=(1,)), rectangles(64, 64, 3, empty=(0, 1, 2))):
        terms, _ = net(images, targets)
        net.zero_grad()
        total(terms).backward()
        assert all(torch.isfinite(term.mean) for term in terms.values())
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())
    for term in {"rpn_box", "box", "mask", "centerness"} & set(terms):
        assert terms[term].mean == 0


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_no_regions_at_all_are_no_nan(name):
    net = detector(facts(64, 64), name=name, width=4)
    net.net.rpn.score_thresh = 1.1  # as when the network is sure that there is nothing anywhere
    images, targets = rectangles(64, 64, 2, empty=(0, 1))
    terms, _ = net(images, targets)
    assert all(torch.isfinite(term.mean) for term in terms.values())
    net.eval()
    with torch.no_grad():
        _, found = net(images)
    check_detections(found, 2, 64, 64, 3, 100)
    assert not found.labels.any()


@every_name
def test_one_class_on_a_wide_picture(name):
    images, targets = rectangles(32, 96, 2, classes=1)
    net = detector(facts(32, 96, 1), name=name, width=4)
    assert all(torch.isfinite(term.mean) for term in net(images, targets)[0].values())
    net.eval()
    with torch.no_grad():
        _, found = net(images.float())
    check_detections(found, 2, 32, 96, 1, 100)


@every_name
def test_boxes_without_area_are_left_out(name):
    images, targets = rectangles(64, 64, 2)
    targets.labels[0, 2] = 1
    targets.boxes_xyxy[0, 2] = torch.tensor([10.0, 10.0, 10.0, 20.0])
    net = detector(facts(64, 64), name=name, width=4)
    torch.manual_seed(0)
    with_it, _ = net(images, targets)
    targets.labels[0, 2] = 0
    torch.manual_seed(0)
    without, _ = net(images, targets)
    assert with_it.keys() == without.keys()
    for term in without:
        torch.testing.assert_close(with_it[term], without[term], rtol=1e-3, atol=1e-5)


@every_name
def test_limits_of_the_yaml_hold(name):
    images, _ = rectangles(64, 64, 2)
    info = facts(64, 64)
    sure = detector(info, name=name, width=4, score_threshold=1.0).eval()
    few = detector(info, name=name, width=4, max_detections=3, score_threshold=0.0, nms_iou=1.0).eval()
    apart = detector(info, name=name, width=4, nms_iou=0.05, score_threshold=0.0).eval()
    with torch.no_grad():
        assert not sure(images)[1].labels.any()
        assert few(images)[1].labels.shape == (2, 3)
        found = apart(images)[1]
    kept = found.boxes_xyxy[0][found.labels[0] == 1]
    assert len(kept) > 1
    overlaps = torch.triu(box_iou(kept, kept).nan_to_num(), diagonal=1)
    assert (overlaps <= 0.05 + 1e-6).all()


@pytest.mark.parametrize("name", ["faster_rcnn", "fcos"])
def test_boxes_stay_exact_in_half_precision(name):
    """bfloat16 would put anchors beyond pixel 256 on every second pixel."""
    images, targets = rectangles(32, 512, 1)
    net = detector(facts(32, 512), name=name, width=4, score_threshold=0.0).eval()
    with torch.no_grad():
        _, full = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            _, half = net(images)
    check_detections(half, 1, 32, 512, 3, 100)
    right = half.boxes_xyxy[half.boxes_xyxy[..., 0] > 256]
    assert (right[:, 0] % 2 != 0).any()
    assert full.boxes_xyxy.shape == half.boxes_xyxy.shape
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = net(images, targets)
    assert all(term.mean.dtype == torch.float32 and torch.isfinite(term.mean) for term in terms.values())


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_towers_begin_at_the_size_of_their_input(name):
    """With torchvision's 0.01 each of AdamW's first steps, of the learning rate, would turn the weights by a third."""
    head = detector(facts(64, 64), name=name).net.head
    for tower in (head.classification_head.conv, head.regression_head.conv):
        weights = [layer.weight for layer in tower.modules() if isinstance(layer, torch.nn.Conv2d)]
        assert len(weights) == 4
        for weight in weights:
            assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05)
    assert head.classification_head.cls_logits.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_distances_of_fcos_begin_where_a_relu_lets_them_learn():
    images, _ = rectangles(64, 64, 2)
    net = detector(facts(64, 64), name="fcos").net
    with torch.no_grad():
        distances = net.head(list(net.backbone(images / 255).values()))["bbox_regression"]
    assert (distances > 1).all()


# --- archs and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("faster_rcnn", "fasterrcnn_mobilenet_v3_large_fpn"),
        ("mask_rcnn", "maskrcnn_resnet50_fpn_v2"),
        ("fcos", "fcos_resnet50_fpn"),
    ],
    ids=lambda value: value,
)
def test_torchvisions_own_are_trainable_from_scratch(name, arch):
    images, targets = rectangles(64, 64, 2, empty=(1,))
    net = detector(facts(64, 64), name=name, arch=arch)
    assert not any(isinstance(layer, FrozenBatchNorm2d) for layer in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    terms, _ = net(images, targets)
    assert total(terms) < 20


def test_an_arch_of_another_name_is_refused():
    with pytest.raises(ConfigError, match="is a mask_rcnn, not a faster_rcnn") as caught:
        detector(facts(64, 64), name="faster_rcnn", arch="maskrcnn_resnet50_fpn")
    assert "model.name to mask_rcnn" in caught.value.fix
    with pytest.raises(ConfigError, match="no retinanet") as caught:
        detector(facts(64, 64), name="retinanet", arch="retina_resnet50_fpn")
    assert "did you mean retinanet_resnet50_fpn" in caught.value.fix
    with pytest.raises(ConfigError, match="need an arch") as caught:
        detector(facts(64, 64), name="fcos", weights="coco")
    assert "fcos_resnet50_fpn" in caught.value.fix


def old_names(weights, one_stage):
    """As in torchvision's COCO files of 2019 and 2020."""
    renamed = {}
    for name, tensor in weights.items():
        for block in ("inner_blocks", "layer_blocks"):
            if block in name:
                name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for i in range(4):
            name = name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
            if one_stage:
                name = name.replace(f"n_head.conv.{i}.0.", f"n_head.conv.{2 * i}.")
        if not name.endswith("num_batches_tracked"):
            renamed[name] = tensor
    return renamed


@pytest.mark.parametrize(
    ("name", "build", "file"),
    [
        ("mask_rcnn", detection.maskrcnn_resnet50_fpn, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),
        ("retinanet", detection.retinanet_resnet50_fpn, "retinanet_resnet50_fpn_coco-eeacb38b.pth"),
    ],
    ids=["mask_rcnn", "retinanet"],
)
def test_coco_weights_are_loaded_but_for_classes_that_coco_does_not_know(name, build, file, tmp_path):
    torch.manual_seed(1)
    coco = build(weights=None, weights_backbone=None, num_classes=91)
    for norm in coco.backbone.body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(1e-4, 2)  # small ones, where epsilon counts
    saved = old_names(coco.state_dict(), name == "retinanet")
    assert saved.keys() != coco.state_dict().keys()
    frozen = build(weights=None, weights_backbone=None, num_classes=91)
    freeze(frozen)
    frozen.load_state_dict(saved)  # torchvision takes the old names, so they are the right ones
    overwrite_eps(frozen, 0.0)
    torch.save(saved, tmp_path / file)

    info = replace(facts(64, 64), class_names=("dog", "lemur", "person"))
    arch = build.__name__
    net: Any = detector(info, name=name, arch=arch, weights=tmp_path / file)
    said = " | ".join(net.notes)
    assert "classes taken over by name: dog, person (2 of 3)" in said
    assert "not in the file" not in said
    assert "left as initialised" not in said
    assert "not used" not in said
    assert "data.normalize=imagenet" in said
    there = coco.state_dict()
    own = {n: t for n, t in net.net.state_dict().items() if "running_var" not in n and "num_batches" not in n}
    assert [n for n, t in own.items() if t.shape == there[n].shape and not torch.equal(t, there[n])] == []
    shaped = {n: t for n, t in own.items() if t.shape != there[n].shape}
    assert net.unloaded == {f"net.{n}" for n in shaped}  # lemurs are new
    for layer, tensor in shaped.items():
        first, rows = (1, len(tensor) // 4) if name == "mask_rcnn" else (0, len(tensor) // 3)  # has it a background?
        mine, theirs = (
            one.unflatten(0, (-1, rows) if "bbox_pred" in layer else (rows, -1)).movedim(int("bbox_pred" in layer), 0)
            for one in (tensor, there[layer])
        )
        assert torch.equal(mine[:, first], theirs[:, COCO.index("dog")]), layer
        if layer.endswith("weight"):
            assert not (mine[:, [first + 1]] == theirs).flatten(2).all(2).any(), layer
        assert torch.equal(mine[:, first + 2], theirs[:, COCO.index("person")]), layer
        assert torch.equal(mine[:, :first], theirs[:, :first]), layer

    net.train()
    norms = [layer for layer in net.net.backbone.body.modules() if isinstance(layer, nn.BatchNorm2d)]
    theirs = [layer for layer in frozen.backbone.body.modules() if isinstance(layer, FrozenBatchNorm2d)]
    assert len(norms) == 53
    for norm, their_norm in zip(norms, theirs, strict=True):
        maps = torch.randn(2, norm.num_features, 2, 2)
        torch.testing.assert_close(norm(maps), their_norm(maps))
        torch.testing.assert_close(norm(maps), their_norm(maps))  # it has not learned from the first call

    rebuilt = detector(info, seed=5, name=name, arch=arch)  # as for a checkpoint: without weights
    rebuilt.load_state_dict(net.state_dict())
    images, _ = rectangles(64, 64, 1)
    with torch.no_grad():
        a, b = net.eval()(images)[1], rebuilt.eval()(images)[1]
    assert torch.equal(a.boxes_xyxy, b.boxes_xyxy)


def test_as_many_classes_as_coco_has_are_taken_over_by_name_not_by_place(tmp_path):
    weights: Any = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1
    build = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    coco = build(weights=None, weights_backbone=None, num_classes=91)
    path = tmp_path / weights.url.rpartition("/")[2]
    torch.save(coco.state_dict(), path)
    names = ("zebra", *(f"class{number}" for number in range(89)))
    net: Any = detector(
        replace(facts(64, 64), class_names=names), name="faster_rcnn", arch=build.__name__, weights=path
    )
    mine, theirs = (one.roi_heads.box_predictor.cls_score.weight for one in (net.net, coco))
    assert mine.shape == theirs.shape
    assert torch.equal(mine[:2], theirs[[0, COCO.index("zebra")]])
    assert not (mine[2:] == theirs[2:]).all(dim=1).any()
    assert net.unloaded == {name for name, value in net.named_parameters() if len(value) % 91 == 0}


def freeze(net):
    """Batch norms as torchvision has them in pretrained detectors."""
    for module in net.backbone.body.modules():
        for child, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(module, child, FrozenBatchNorm2d(layer.num_features))


def test_second_versions_keep_learning_their_norms(tmp_path):
    other = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=7)
    torch.save(other.state_dict(), tmp_path / "seven.pth")
    net: Any = detector(
        facts(32, 32), name="retinanet", arch="retinanet_resnet50_fpn_v2", weights=tmp_path / "seven.pth"
    )
    assert any("cls_logits.weight 63x256x3x3 -> 27x256x3x3" in line for line in net.notes)
    net.train()
    assert all(norm.training for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))
    assert torch.equal(net.net.backbone.body.bn1.running_var, other.backbone.body.bn1.running_var)


def test_imagenet_weights_go_to_the_backbone(tmp_path, monkeypatch):
    whole = models.mobilenet_v3_large(weights=None)
    torch.save(whole.state_dict(), tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()[:8]
    cached = tmp_path / "hub" / "checkpoints" / f"mobilenet_v3_large-{digest}.pth"
    cached.parent.mkdir(parents=True)
    (tmp_path / "net.pth").rename(cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # The real file has this name but for the digest, which random weights cannot have.
    assert torchvision_nets._imagenet_url("fasterrcnn_mobilenet_v3_large_fpn").endswith(
        "mobilenet_v3_large-8738ca79.pth"
    )
    assert torchvision_nets._imagenet_url("maskrcnn_resnet50_fpn_v2").endswith("resnet50-0676ba61.pth")
    monkeypatch.setattr(torchvision_nets, "_imagenet_url", lambda arch: f"https://x.org/{cached.name}")
    arch = "fasterrcnn_mobilenet_v3_large_320_fpn"
    net: Any = detector(facts(32, 32), name="faster_rcnn", arch=arch, weights="imagenet")
    body = net.net.backbone.body.state_dict()
    assert all(torch.equal(t, whole.state_dict()[f"features.{n}"]) for n, t in body.items())
    assert len(net.notes) == 2  # that all were loaded, and what mean and std they expect


@pytest.mark.parametrize("weights", ["coco", "imagenet"])
def test_weights_without_network_say_what_to_put_where(weights, tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    arch = "fasterrcnn_mobilenet_v3_large_320_fpn"
    with pytest.raises(DataError) as caught:
        detector(facts(64, 64), name="faster_rcnn", arch=arch, weights=weights)
    assert caught.value.where.startswith("https://download.pytorch.org/models/")
    assert str(tmp_path / "hub" / "checkpoints") in caught.value.fix


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(CheckpointError, match="fits"):
        detector(
            facts(64, 64),
            name="faster_rcnn",
            arch="fasterrcnn_mobilenet_v3_large_320_fpn",
            weights=tmp_path / "linear.pth",
        )


def test_the_regions_proposed_are_the_likeliest():
    images, _ = rectangles(64, 64, 2)
    net: Any = detector(facts(64, 64), name="faster_rcnn", width=4).eval()
    with torch.no_grad():
        few, many = net.propose(images, 7), net.propose(images, 1000)
    for some, more in zip(few, many, strict=True):
        assert some.shape == (7, 4)
        assert len(more) > 7
        assert torch.equal(some, more[:7])
    assert net.net.rpn.post_nms_top_n() == 200


@every_name
def test_anchors_are_made_once_and_serve_training_after_an_evaluation(name):
    images, targets = rectangles(64, 64)
    net = detector(facts(64, 64), name=name, width=4)
    made = []
    generator = net.first_stage.anchor_generator.generator
    generator.register_forward_hook(lambda *_: made.append(1))
    net.eval()
    with torch.inference_mode():
        net(images)
    net.train()
    for _ in range(2):
        terms, _ = net(images, targets)
        total(terms).backward()
    assert len(made) == 1
    maps = list(net.net.backbone(net.normalize(images)).values())
    pixels = ImageList(images.float(), [(64, 64)] * len(images))
    for kept, anew in zip(net.first_stage.anchor_generator(pixels, maps), generator(pixels, maps), strict=True):
        assert torch.equal(kept, anew)
