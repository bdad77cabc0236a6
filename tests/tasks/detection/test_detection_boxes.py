"""Boxes against torchvision, published tables, Pillow's letterbox, and degenerate input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import ops

from mlcli.data.decode import PAD_VALUE, Preparation
from mlcli.tasks.detection.boxes import area, clip, convert, iou_matrix, overlap, overlap_matrix, placement

KINDS = ("iou", "giou", "diou", "ciou")
ORACLES = {
    "iou": ops.box_iou,
    "giou": ops.generalized_box_iou,
    "diou": ops.distance_box_iou,
    "ciou": ops.complete_box_iou,
}
# pytorch/vision test/test_ops.py: INT_BOXES, FLOAT_BOXES and what each overlap of them is
SQUARES = torch.tensor([[0.0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300], [0, 0, 25, 25]])
LARGE = torch.tensor(
    [
        [285.3538, 185.5758, 1193.5110, 851.4551],
        [285.1472, 188.7374, 1192.4984, 851.0669],
        [279.2440, 197.9812, 1189.4746, 849.2019],
    ]
)
TABLES = {
    "iou": [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1], [0.0625, 0.25, 0]],
    "giou": [[1, 0.25, -0.7778], [0.25, 1, -0.8611], [-0.7778, -0.8611, 1], [0.0625, 0.25, -0.8819]],
    "diou": [[1, 0.1875, -0.4444], [0.1875, 1, -0.5625], [-0.4444, -0.5625, 1], [-0.0781, 0.1875, -0.6267]],
}
TABLES["ciou"] = TABLES["diou"]  # squares all have one aspect ratio
LARGE_IOU = [[1, 0.9933, 0.9673], [0.9933, 1, 0.9737], [0.9673, 0.9737, 1]]

sides = st.floats(-1000, 1000, width=32)
extents = st.floats(0, 1000, width=32)


def random_boxes(count: int, seed: int, *, shape: tuple[int, ...] = ()) -> torch.Tensor:
    """xyxy within 200 pixels, sides from 1 to 60, float64"""
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(*shape, count, 2, generator=random, dtype=torch.float64) * 140
    return torch.cat([low, low + 1 + 59 * torch.rand(*shape, count, 2, generator=random, dtype=torch.float64)], dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_are_those_published_for_squares(kind):
    torch.testing.assert_close(
        overlap_matrix(SQUARES, SQUARES[:3], kind), torch.tensor(TABLES[kind]), atol=1e-4, rtol=0
    )


def test_iou_of_large_boxes_is_as_published():
    torch.testing.assert_close(iou_matrix(LARGE, LARGE), torch.tensor(LARGE_IOU), atol=1e-4, rtol=0)


def test_iou_of_parts_of_the_unit_square_is_as_published():
    """detectron2 tests/structures/test_boxes.py"""
    parts = [[0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.5, 0.5, 1.5, 1.5]]
    found = iou_matrix(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor(parts))
    torch.testing.assert_close(found, torch.tensor([[1, 0.5, 0.5, 0.25, 0.25, 0.25 / 1.75]]))


@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_are_torchvisions(kind):
    a, b = random_boxes(40, 1), random_boxes(30, 2)
    torch.testing.assert_close(overlap_matrix(a, b, kind), ORACLES[kind](a, b), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_the_diagonal_and_leading_dimensions_are_batches(kind):
    a, b = random_boxes(5, 1, shape=(2, 3)), random_boxes(7, 2, shape=(2, 3))
    matrix = overlap_matrix(a, b, kind)
    assert matrix.shape == (2, 3, 5, 7)
    torch.testing.assert_close(matrix[1, 2], overlap_matrix(a[1, 2], b[1, 2], kind))
    torch.testing.assert_close(overlap(a, b[..., :5, :], kind), matrix.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_the_matrix_is_the_overlap_of_each_pair_to_the_bit(dtype):
    odd = torch.tensor([[5, 5, 5, 5], [2, 0, 2, 8], [8, 8, 3, 3], [0, 0, 1e6, 1e6], [0, 0, 1e-6, 1e-6]])
    odd = odd if dtype == torch.int64 else torch.cat([odd, torch.full((1, 4), torch.nan)])
    a, b = (torch.cat([random_boxes(60, seed), odd]).to(dtype).expand(2, -1, -1) for seed in (1, 2))
    matrix = iou_matrix(a, b)
    assert torch.equal(matrix, overlap(a[:, :, None], b[:, None]))
    assert not matrix.isnan().any()
    assert not iou_matrix(a.float().requires_grad_(), b).requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([5, 5, 5, 5], [5, 5, 5, 5]),
        ([0, 0, 0, 0], [1, 1, 4, 4]),
        ([2, 0, 2, 8], [0, 3, 9, 3]),
        ([8, 8, 3, 3], [0, 0, 9, 9]),
        ([0, 0, 4, 4], [0, 0, 4, 4]),
        ([0, 0, 1e6, 1e6], [0, 0, 1e-6, 1e-6]),
    ],
    ids=["one point", "point and box", "two lines", "swapped corners", "the same", "huge and tiny"],
)
def test_degenerate_boxes_give_numbers_and_finite_gradients(kind, a, b):
    first, second = torch.tensor([a], dtype=torch.float32).requires_grad_(), torch.tensor([b], dtype=torch.float32)
    value = overlap(first, second, kind)
    value.sum().backward()
    assert value.isfinite().all()
    assert first.grad.isfinite().all()
    if (area(first) * area(second)).item() == 0:
        assert overlap(first, second).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_formula(kind):
    """By finite differences; CIoU's weight alpha is held fixed in the gradient, so squares, where it has no part."""
    a = random_boxes(6, 3)
    b = a + torch.tensor([3.0, -2, 5, 1], dtype=torch.float64)
    if kind == "ciou":
        a = torch.cat([a[:, :2], a[:, :2] + 20], dim=1)
        b = a + 4.0
    assert torch.autograd.gradcheck(lambda boxes: overlap(boxes, b, kind), a.requires_grad_())


def test_half_precision_and_integers_are_counted_in_full():
    half = torch.tensor([[0, 0, 1000, 1000]], dtype=torch.float16)  # area 10^6; a half ends at 65504
    assert area(half).item() == 1e6
    assert iou_matrix(half, half).item() == 1
    assert iou_matrix(half.long(), half.long()).item() == 1


def test_area_is_as_published():
    """pytorch/vision test/test_ops.py, TestBoxArea"""
    assert area(SQUARES).tolist() == [10000, 2500, 10000, 625]
    torch.testing.assert_close(area(LARGE[:1].double()).item(), 604723.0806, atol=0.1, rtol=0)
    assert area(torch.tensor([8.0, 8, 3, 3])) == 0


def test_formats_are_those_published():
    """pytorch/vision test/test_ops.py, TestBoxConvert"""
    corners = torch.tensor([[0.0, 0, 100, 100], [0, 0, 0, 0], [10, 15, 30, 35], [23, 35, 93, 95]])
    sized = torch.tensor([[0.0, 0, 100, 100], [0, 0, 0, 0], [10, 15, 20, 20], [23, 35, 70, 60]])
    centred = torch.tensor([[50.0, 50, 100, 100], [0, 0, 0, 0], [20, 25, 20, 20], [58, 65, 70, 60]])
    forms = {"xyxy": corners, "xywh": sized, "cxcywh": centred}
    for source, boxes in forms.items():
        for target, expected in forms.items():
            assert convert(boxes, source, target).equal(expected)


@given(st.tuples(sides, sides, extents, extents), st.sampled_from(["xyxy", "xywh", "cxcywh"]))
def test_every_format_leads_back(box, target):
    boxes = convert(torch.tensor([box], dtype=torch.float64), "xywh", "xyxy")
    torch.testing.assert_close(convert(convert(boxes, "xyxy", target), target, "xyxy"), boxes, atol=1e-9, rtol=0)


def test_clipping_is_torchvisions():
    boxes = random_boxes(50, 4) * 2 - 80
    assert clip(boxes, 90, 120).equal(ops.clip_boxes_to_image(boxes, (90, 120)))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(64, 48), (37, 100), (33, 32), (1, 400), (500, 3), (96, 64)])
def test_placement_is_where_the_decoder_puts_the_picture(fit, size):
    """The decoder writes a white picture; what is not grey bars must be where the map says."""
    out = np.empty((3, 64, 96), dtype=np.uint8)
    source = Image.new("RGB", size, "white")
    source.save(buffer := __import__("io").BytesIO(), "PNG")
    Preparation((64, 96), fit).decode(buffer.getvalue(), out)
    rows, columns = np.nonzero(out[0] != PAD_VALUE)
    scale, shift = placement(torch.tensor(size), (64, 96), fit)
    corners = torch.tensor([[0.0, 0], size]).double() * scale + shift
    assert corners.tolist() == pytest.approx(
        np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]), abs=1e-9
    )


@pytest.mark.parametrize(("source", "target"), [("yxyx", "xyxy"), ("xywh", "cxywh"), ("ltrb", "ltrb")])
def test_an_unknown_format_is_refused_with_the_known_ones(source, target):
    with pytest.raises(ValueError, match="choose one of xyxy, xywh, cxcywh"):
        convert(torch.zeros(1, 4), source, target)
