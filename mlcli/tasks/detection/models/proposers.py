"""Regions of a picture worth looking at: sliding windows, or a function of its pixels.

Windows of several sizes, moved on by a share of their side, are what detectors used before there were proposals (Viola
& Jones 2001; Felzenszwalb et al. 2010). Selective search merges neighbouring patches of similar colour, texture and
size (Uijlings et al. 2013, IJCV 104). A trained region proposal network is step 2 of the 4-step training in Ren et al.
2015 (arXiv:1506.01497, section 3.2).
"""

import hashlib
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mlcli.data.randomness import permutation
from mlcli.engine.limits import usable_cpus
from mlcli.errors import ConfigError
from mlcli.tasks.detection.models.torchvision_detectors import TwoStage

SMALLEST = 1 / 8
"""Side of the smallest windows, in shorter sides of the picture; it overlaps objects of 0.7 of it by half."""

OCTAVES_APART = 0.5
"""Each size is 1.4 times the next smaller one."""

SQUARES, SHAPES = (1.0,), (1.0, 0.5, 2.0)
"""Height divided by width."""

LAYOUTS = ((SHAPES, 1 / 4), (SHAPES, 1 / 3), (SQUARES, 1 / 3), (SQUARES, 1 / 2), (SQUARES, 2 / 3))
"""Shapes, and how far each window is moved on, in its own sides; from fine to coarse. On a square picture these are
4560, 2630, 884, 434 and 274 windows. Of boxes of 1/10 to 1/2 of the picture, anywhere and of any shape between 1:2 and
2:1, they overlap 100, 100, 99, 90 and 74 % by half (IoU 0.5), but only 69, 45, 22, 10 and 7 % by IoU 0.7."""


def sliding_windows(height: int, width: int, most: int) -> Tensor:
    """Return the finest layout of at most `most` windows, largest first: float32 [P, 4], corners in pixels.

    All are in the picture. Where even the coarsest layout has more, its smallest windows are left out.
    """
    for shapes, share in LAYOUTS:
        windows = _layout(height, width, shapes, share)
        if len(windows) <= most:
            break
    return windows[:most]


def _layout(height: int, width: int, shapes: tuple[float, ...], share: float) -> Tensor:
    """Return all windows of one of LAYOUTS: float32 [P, 4], largest first."""
    shorter = min(height, width)
    sizes = [shorter * 2 ** (-OCTAVES_APART * i) for i in range(round(-math.log2(SMALLEST) / OCTAVES_APART) + 1)]
    windows = []
    for size, shape in product(sizes, shapes):
        tall, wide = min(size * math.sqrt(shape), height), min(size / math.sqrt(shape), width)
        top, left = torch.meshgrid(_starts(height, tall, share), _starts(width, wide, share), indexing="ij")
        windows.append(torch.stack([left, top, left + wide, top + tall], dim=-1).view(-1, 4))
    return torch.cat(windows)


def _starts(whole: float, side: float, share: float) -> Tensor:
    """Return where windows of this side begin, evenly from end to end and at most `share` of a side apart."""
    rest = whole - side
    return torch.linspace(0, rest, 1 + math.ceil(rest / (share * side) - 1e-6))  # 7.0000001 moves are 7


class Proposer(Protocol):
    """Finds regions in pictures as models get them."""

    identity: str
    """All that the regions depend on, except the pixels."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """uint8 [B, 3, H, W] -> B times float32 [p, 4] on the CPU, corners in pixels, best first."""


class SelectiveSearch:
    """OpenCV's, in its fast mode: two colour spaces, two measures of similarity, one first cut into patches.

    It has no order of its own but a random one, which no seed of OpenCV's reaches; ours is drawn from the picture. With
    large regions first, the small objects would be those that `most` cuts off.
    """

    def __init__(self, most: int) -> None:
        try:
            import cv2
            from cv2 import ximgproc
        except ImportError:
            raise ConfigError(
                "selective search needs OpenCV with its contributed modules, which is not installed",
                where="model.proposals.method",
                fix="pip install 'mlcli[proposals]', in place of any other opencv package: all use the module name cv2",
            ) from None
        self._new_search = ximgproc.segmentation.createSelectiveSearchSegmentation
        self._most = most
        self.identity = f"selective search, fast, OpenCV {cv2.__version__}, most {most}"

    def __call__(self, images: Tensor) -> list[Tensor]:
        pixels = images.cpu().numpy()[:, ::-1].transpose(0, 2, 3, 1)  # [B, H, W, 3], blue first, as OpenCV expects
        with ThreadPoolExecutor(usable_cpus()) as threads:  # OpenCV lets go of Python's lock while it works
            return list(threads.map(self._one, pixels))

    def _one(self, pixels: np.ndarray) -> Tensor:
        pixels = np.ascontiguousarray(pixels)
        search = self._new_search()
        search.setBaseImage(pixels)
        search.switchToSelectiveSearchFast()
        found = np.asarray(search.process()).reshape(-1, 4)  # x, y, width, height
        corners = np.unique(found, axis=0).astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        order = permutation(len(corners), seed=zlib.crc32(pixels.tobytes()), epoch=0)
        return torch.from_numpy(corners[order[: self._most]])


class RegionNetwork:
    """The region proposal network of a trained Faster or Mask R-CNN.

    most: regions kept of one picture, those most likely to hold an object.
    """

    def __init__(self, detector: TwoStage, most: int) -> None:
        self._detector = detector.eval().requires_grad_(False)
        self._most = most
        digest = hashlib.sha256()
        for name, tensor in detector.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        self.identity = f"region proposal network {digest.hexdigest()}, most {most}"

    @torch.no_grad()  # not inference_mode: a detector in training keeps the boxes for its backward pass
    def __call__(self, images: Tensor) -> list[Tensor]:
        self._detector.to(images.device)
        return [boxes.cpu() for boxes in self._detector.propose(images, self._most)]
