"""The statistics inside the model: exact, in one pass, and in every way a network may be called."""

import pytest
import torch
from torch import nn

from mlcli.models.layers import Normalized

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
IMAGES = {"mean": MEAN, "std": STD, "image": True}
PIXELS = torch.randint(0, 256, (4, 3, 5, 7), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def expected(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels.double() / 255 - mean) / std).float()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_standardised_and_keep_their_layout(dtype, layout):
    inputs = PIXELS.to(dtype).to(memory_format=layout)
    outputs = Normalized(nn.Identity(), **IMAGES)(inputs)
    assert outputs.dtype == torch.float32
    assert torch.allclose(outputs, expected(PIXELS), atol=2e-6)
    assert outputs.is_contiguous(memory_format=layout)


def test_features_are_standardised_and_constant_ones_only_shifted():
    rows = torch.tensor([[14.0, -2.0, 0.1], [6.0, -1.0, 1.1]])
    outputs = Normalized(nn.Identity(), mean=(10.0, -2.0, 0.1), std=(4.0, 0.0, 1e-9), image=False)(rows)
    assert torch.allclose(outputs, torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 1.0]]), atol=1e-6)


def test_it_runs_compiled_exported_and_under_autocast():
    model = Normalized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(60, 2)), **IMAGES).eval()
    plain = model(PIXELS)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(PIXELS), plain)
    program = torch.export.export(model, (PIXELS,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.allclose(program.module()(PIXELS[:2]), plain[:2], atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(PIXELS)
        # bf16 knows 8 bits: pixel values 254 and 255 would be the same if the statistics were taken off in it.
        assert Normalized(nn.Identity(), **IMAGES)(PIXELS).dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), plain, atol=0.05)


def test_state_holds_the_network_and_the_statistics_and_loading_takes_them_over():
    model = Normalized(nn.Linear(3, 2), mean=(1.0,) * 3, std=(2.0,) * 3, image=False)
    assert list(model.state_dict()) == ["mean", "std", "net.weight", "net.bias"]
    other = Normalized(nn.Linear(3, 2), mean=(0.0,) * 3, std=(1.0,) * 3, image=False)
    rows = torch.rand(4, 3)
    assert not torch.equal(other(rows), model(rows))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(rows), model(rows))


def test_a_grey_image_does_not_pass_for_a_colour_one():
    with pytest.raises(AssertionError, match="expected 3 channels, not 1"):
        Normalized(nn.Identity(), **IMAGES)(PIXELS[:, :1])


def test_no_gradient_reaches_the_statistics():
    model = Normalized(nn.Linear(3, 2), mean=(1.0,) * 3, std=(2.0,) * 3, image=False)
    assert [name for name, _ in model.named_parameters()] == ["net.weight", "net.bias"]
