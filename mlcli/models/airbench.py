"""The network of airbench94 (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498).

A small convolutional network that learns CIFAR-10 in ten epochs: sections 3.1 to 3.3 of the paper.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcli.models.layers import initialise, scaled

WHITENING_KERNEL = 2
"""Side of the patches that the first convolution whitens, in pixels."""
WHITENED_IMAGES, WHITENED_PIXELS = 5_000, 5_000 * 32 * 32
"""Images that the patches are taken from at most, and pixels of them: those of 5,000 images of CIFAR."""
SMALLEST_SIDE = 9
"""Of images, in pixels: one pixel is left of it after the first convolution and three poolings."""
WHITENING_EPS = 5e-4
"""Added to each direction's variance, so that those of noise are not blown up."""
KEPT_STATISTICS = 0.6
"""Share of its running statistics that batch normalisation keeps each step; as torch counts, a momentum of 0.4."""


class Airbench(nn.Module):
    """Whitened patches, three groups of two convolutions, the largest value of each channel: [B, C, H, W] -> [B, K].

    Args:
        channels: C, of the images, whose sides must be SMALLEST_SIDE or more.
        outputs: K.
        width: factor on the channels of the groups (64, 256, 256).
        init: scheme of the first weights, see `layers.initialise`. By default a group's convolutions hand their input
            on: their first filters are the identity (section 3.3), the others PyTorch's.
    """

    def __init__(self, *, channels: int, outputs: int, width: float = 1.0, init: str = "default") -> None:
        super().__init__()
        first = 2 * channels * WHITENING_KERNEL**2
        sizes = [first, scaled(64, width), scaled(256, width), scaled(256, width)]
        self.whiten = nn.Conv2d(channels, first, WHITENING_KERNEL)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self.groups = nn.Sequential(*(Group(*pair) for pair in itertools.pairwise(sizes)))
        self.output = nn.Linear(sizes[-1], outputs, bias=False)
        initialise(self, init)
        _hold(self.whiten, "weight")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.groups(functional.gelu(self.whiten(images)))  # [B, 256, H / 8, W / 8]
        largest = functional.max_pool2d(maps, maps.shape[-2:]).flatten(1)  # [B, 256]
        return self.output(largest) / 9  # [B, outputs]

    def learn_patches(self, images: Tensor) -> None:
        """Make the first convolution's filters the directions in which patches of images vary, and their opposites.

        After it, patches vary by 1 in each direction (section 3.2).

        images: float32 [N, C, H, W], standardised as those that the network is trained on.
        """
        size = self.whiten.weight[0].numel()
        covariance, count = torch.zeros(size, size, dtype=torch.float64), 0
        for part in images.split(500):
            patches = functional.unfold(part, WHITENING_KERNEL)  # [n, size, places]
            covariance += torch.bmm(patches, patches.transpose(1, 2)).sum(0)
            count += patches.shape[0] * patches.shape[2]
        variances, directions = torch.linalg.eigh(covariance / count)  # of rising variance, a column each
        filters = (directions / (variances + WHITENING_EPS).sqrt()).T.flip(0)
        self.whiten.weight.copy_(torch.cat([filters, -filters]).view_as(self.whiten.weight))


class Group(nn.Module):
    """Convolution, 2x2 max pooling, normalisation, GELU, convolution, normalisation, GELU."""

    def __init__(self, arriving: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(arriving, channels), _shift_only_norm(channels)
        self.conv2, self.norm2 = _convolution(channels, channels), _shift_only_norm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(maps), 2)))
        return functional.gelu(self.norm2(self.conv2(maps)))


def _convolution(arriving: int, channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(arriving, channels, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:arriving])
    return layer


def _shift_only_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation whose scale stays 1: only its shift is learned."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=1 - KEPT_STATISTICS)
    _hold(layer, "weight")
    return layer


def _hold(layer: nn.Module, name: str) -> None:
    """Make a parameter a buffer: saved with the model, never trained."""
    values = getattr(layer, name).detach()
    delattr(layer, name)
    layer.register_buffer(name, values)
