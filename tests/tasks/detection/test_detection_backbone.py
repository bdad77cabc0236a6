"""The compact backbone and neck: sizes, cells, and that every weight takes part."""

import pytest
import torch
from torch import nn

from mlcli.tasks.detection.models.backbone import PyramidPooling, by_box, cells, compact_fpn, map_size
from mlcli.tasks.detection.models.build import class_rows
from tests.tasks.detection.overfit import MODEL, facts

STRIDES = {
    "usual": (8, 16, 32),
    "fine": (4, 8),
    "one": (16,),
    "coarse": (32, 64),
    "many": (8, 16, 32, 64, 128),
}


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("size", [(64, 64), (50, 90), (33, 65)], ids=["square", "wide", "odd"])
def test_maps_have_the_sizes_that_were_promised(strides, size):
    neck = compact_fpn(4, strides).eval()
    maps = neck(torch.rand(1, 3, *size))
    assert list(maps) == [str(level) for level in range(len(strides))]
    assert [tuple(m.shape) for m in maps.values()] == [(1, neck.out_channels, *map_size(size, s)) for s in strides]


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
def test_every_weight_learns(strides):
    neck = compact_fpn(4, strides)
    sum(m.square().mean() for m in neck(torch.rand(2, 3, 96, 96)).values()).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_width_16_has_about_a_million_parameters_and_64_channels():
    neck = compact_fpn(16)
    assert neck.out_channels == 64
    assert 0.9e6 < sum(p.numel() for p in neck.backbone.parameters()) < 1.1e6


def test_pooling_in_a_row_is_pooling_over_growing_windows():
    pooling = PyramidPooling(2)
    seen = []
    pooling.merge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pooling(torch.rand(1, 2, 15, 17))
    reduced = seen[0][:, :1]
    expected = [nn.functional.max_pool2d(reduced, side, stride=1, padding=side // 2) for side in (1, 5, 9, 13)]
    assert torch.equal(seen[0], torch.cat(expected, dim=1))


def test_cells_go_map_after_map_and_row_by_row():
    centres_xy, strides = cells((20, 30), (8, 16))
    expected = [(8 * x + 4, 8 * y + 4) for y in range(3) for x in range(4)] + [(8, 8), (24, 8), (8, 24), (24, 24)]
    assert centres_xy.tolist() == [list(map(float, centre)) for centre in expected]
    assert strides.tolist() == [8.0] * 12 + [16.0] * 4


def test_boxes_go_map_after_map_cell_by_cell_and_box_by_box():
    maps = {"0": torch.rand(2, 3, 2, 4), "1": torch.rand(2, 3, 1, 2)}
    layers = nn.ModuleList([nn.Conv2d(3, 2 * 5, 1), nn.Conv2d(3, 3 * 5, 1)])
    said = by_box(maps, layers, 5)
    fine, coarse = layers[0](maps["0"]), layers[1](maps["1"])
    assert said.shape == (2, 2 * 4 * 2 + 2 * 3, 5)
    assert torch.equal(said[1, (1 * 4 + 2) * 2 + 1], fine[1, 5:, 1, 2])
    assert torch.equal(said[0, 16 + 3 + 2], coarse[0, 10:, 0, 1])


@pytest.mark.parametrize("size", [(64, 64), (48, 80)], ids=["square", "wide"])
def test_torchvision_takes_it_as_a_backbone(size):
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    net = RetinaNet(compact_fpn(4), num_classes=3, anchor_generator=anchors, min_size=min(size), max_size=max(size))
    target = {"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
    losses = net([torch.rand(3, *size)] * 2, [target] * 2)
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    ("section", "layers"),
    [
        ({"name": "yolo", "strides": (8, 16)}, ("head.what.0.1", "head.what.1.1")),
        ({"name": "yolo", "strides": (8, 16), "head": "anchors"}, ("head.branches.0.1", "head.branches.1.1")),
        ({"name": "faster_rcnn"}, ("net.roi_heads.box_predictor.cls_score", "net.roi_heads.box_predictor.bbox_pred")),
    ],
    ids=["yolo", "yolo anchors", "faster_rcnn"],
)
def test_what_the_classes_shape_is_known_for_every_map(section, layers):
    """Fine-tuning learns it at the full rate: the last layer in module order is only that of the coarsest map."""
    config = MODEL.validate_python({"width": 4, **section})
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert class_rows(config, facts(64, 64)).each.keys() == expected
