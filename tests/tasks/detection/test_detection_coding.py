"""Deltas and distances: there and back, and as torchvision codes them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

from mlcli.tasks.detection.models.anchors import VARIANCES, decode, decode_ltrb, encode
from tests.tasks.detection.test_detection_boxes import random_boxes

boxes = st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 60), st.floats(1, 60)).map(
    lambda b: torch.tensor([[b[0], b[1], b[0] + b[2], b[1] + b[3]]], dtype=torch.float64)
)
variances = st.sampled_from([VARIANCES, (1.0, 1.0, 1.0, 1.0), (0.3, 0.1, 2.0, 0.5)])


@given(boxes, boxes, variances)
def test_decode_undoes_encode(box, anchor, variance):
    torch.testing.assert_close(decode(encode(box, anchor, variance), anchor, variance), box, atol=1e-6, rtol=1e-9)


@given(boxes, st.floats(-500, 500), st.floats(-500, 500), st.sampled_from([4, 8.0, torch.tensor([[16.0]])]))
def test_distances_in_strides_lead_back_to_the_box(box, x, y, stride):
    """Section 3.1 of FCOS, equation 1: l = x - x0, t = y - y0, r = x1 - x, b = y1 - y."""
    point = torch.tensor([[x, y]], dtype=torch.float64)
    distances = torch.cat([point - box[:, :2], box[:, 2:] - point], dim=1) / stride
    torch.testing.assert_close(decode_ltrb(distances, point, stride), box, atol=1e-6, rtol=1e-9)


def test_deltas_are_torchvisions():
    a, b = random_boxes(50, 1), random_boxes(50, 2)
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(encode(b, a), coder.encode_single(b, a))
    deltas = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20
    torch.testing.assert_close(decode(deltas, a), coder.decode_single(deltas, a))


def test_distances_are_torchvisions_seen_in_sides_of_a_square():
    """torchvision's FCOS divides by the anchor's size, which there is the stride."""
    points, b = random_boxes(50, 1)[:, :2], random_boxes(50, 2)
    anchors = torch.cat([points - 8, points + 8], dim=1)
    torch.testing.assert_close(decode_ltrb(BoxLinearCoder().encode(anchors, b), points, 16.0), b)


def test_growth_is_limited_so_that_nothing_overflows():
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    x0, _, x1, _ = decode(torch.tensor([[0.0, 0, 1e9, 1e9]]), anchor)[0].tolist()
    assert x1 - x0 == pytest.approx(1000, rel=1e-5)


def test_padding_rows_are_coded_with_finite_gradients():
    nothing = torch.zeros(3, 4, requires_grad=True)
    anchors = torch.tensor([[0.0, 0, 16, 16], [0, 0, 0, 0], [-4, 2, 4, 2]], requires_grad=True)
    deltas = encode(nothing, anchors)
    decode(deltas, anchors).sum().backward()
    assert deltas.isfinite().all()
    assert nothing.grad.isfinite().all()
    assert anchors.grad.isfinite().all()
