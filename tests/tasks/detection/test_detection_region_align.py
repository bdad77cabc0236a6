"""RoIAlign by looking up rows: torchvision's values and gradients, wherever a region lies."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, batched_nms

from mlcli.tasks.detection.models.batched import _kept_first
from mlcli.tasks.detection.models.region_align import RegionAlign
from mlcli.tasks.detection.models.torchvision_detectors import MaskRcnnDetector

EDGES = [
    [3.0, 5.0, 40.0, 60.0],
    [0.0, 0.0, 160.0, 96.0],  # the whole picture
    [-30.0, -20.0, 20.0, 30.0],  # points more than a cell outside
    [150.0, 90.0, 160.0, 96.0],  # the last cell
    [155.0, 80.0, 230.0, 140.0],
    [31.9, 16.0, 32.1, 80.0],  # narrower than a cell
    [7.0, 7.0, 7.0, 7.0],
]


def maps(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Three maps of pictures of 96x160 and one that is not pooled from; the coarsest is a row of cells."""
    random = torch.Generator().manual_seed(0)
    shapes = {"0": (12, 20), "1": (6, 10), "2": (1, 2), "pool": (1, 1)}
    return {
        name: torch.randn(3, 5, *shape, dtype=dtype, generator=random).requires_grad_()
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("cells", [1, 7, 14])
@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("names", [["0"], ["0", "1", "2"]], ids=len)
def test_values_and_gradients_are_torchvisions(cells, samples, names):
    random = torch.Generator().manual_seed(1)
    begin = torch.rand(40, 2, generator=random) * torch.tensor([150.0, 90.0])
    anywhere = torch.cat([begin, begin + 80 * torch.rand(40, 2, generator=random)], dim=1)
    boxes = [torch.cat([torch.tensor(EDGES), anywhere]), torch.empty(0, 4), anywhere[:3]]
    found = {}
    for kind in (MultiScaleRoIAlign, RegionAlign):
        pool = kind(names, cells, samples, canonical_scale=56, canonical_level=4)
        inputs = maps(torch.float64)
        parts = pool(inputs, [one.double() for one in boxes], [(96, 160)] * 3)
        weights = torch.linspace(-1, 1, parts.numel(), dtype=torch.float64).reshape(parts.shape)
        (parts * weights).sum().backward()
        found[kind] = parts, [inputs[name].grad for name in names]
        if kind is MultiScaleRoIAlign and len(names) == 3:
            assert len(pool.map_levels(boxes).unique()) == 3
    (theirs, their_gradients), (ours, our_gradients) = found[MultiScaleRoIAlign], found[RegionAlign]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for our, their in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", [None, "maskrcnn_resnet50_fpn"])
def test_detectors_pool_so(arch):
    with torch.device("meta"):
        net = MaskRcnnDetector(2, (64, 64), arch=arch)
    pools = [layer for layer in net.modules() if isinstance(layer, MultiScaleRoIAlign)]
    assert [type(pool) for pool in pools] == [RegionAlign] * 2  # for boxes and for masks


def test_no_regions():
    parts = RegionAlign(["0", "1"], 7, 2)(maps(torch.float32), [torch.empty(0, 4)] * 3, [(96, 160)] * 3)
    assert parts.shape == (0, 5, 7, 7)
    parts.sum().backward()


def test_a_region_that_is_nowhere_is_read_as_nothing():
    """As a model that diverged would propose it."""
    nowhere = torch.tensor([[torch.nan, 0.0, 9.0, 9.0], [torch.inf, 0.0, torch.inf, 9.0]])
    parts = RegionAlign(["0"], 7, 2)(maps(torch.float32), [nowhere, *[torch.empty(0, 4)] * 2], [(96, 160)] * 3)
    assert (parts == 0).all()


@pytest.mark.parametrize(("most", "spread"), [(10, 300), (200, 300), (200, 5), (1000, 300)])
def test_the_likeliest_of_some_are_those_of_all(most, spread):
    random = torch.Generator().manual_seed(2)
    corners = spread * torch.rand(900, 2, generator=random)
    boxes = torch.cat([corners, corners + 5 + 60 * torch.rand(900, 2, generator=random)], dim=1)
    scores = (torch.rand(900, generator=random) * 50).round() / 50  # many alike
    levels = torch.randint(0, 4, (900,), generator=random)
    wanted = batched_nms(boxes, scores, levels, 0.7)
    if spread == 5:
        assert (
            len(batched_nms(*(of_all[scores.topk(2 * most).indices] for of_all in (boxes, scores, levels)), 0.7)) < most
        )
    assert _kept_first(boxes, scores, levels, 0.7, most).equal(wanted[:most])
