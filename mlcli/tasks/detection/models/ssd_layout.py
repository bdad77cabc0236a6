"""Where SSD looks: the maps of a backbone and the default boxes laid out over them.

Liu et al. 2016 (arXiv:1512.02325, section 2.2), for the compact backbone; VGG-16's are in ssd_vgg.py.
"""

from typing import NamedTuple

from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.models.anchors import default_boxes
from mlcli.tasks.detection.models.backbone import compact_fpn, map_size
from mlcli.tasks.detection.models.config import Ssd

STRIDES = (8, 16, 32, 64, 128)
"""Of the compact backbone's maps; those of fewer than LEAST_CELLS a side are left out."""

LEAST_CELLS = 2
"""A single cell says nothing that the map before does not, and its batch norm would have one value an image."""

RATIOS = (2.0, 3.0)
"""Default boxes are also 2 and 3 times as wide as high, and the reverse: 6 a cell with the two squares."""

MIN_SCALE, MAX_SCALE = 0.1, 0.9
"""Sides of the default boxes of the finest and coarsest map as shares of the picture's (0.1 as in section 3.1)."""


class Layout(NamedTuple):
    """A backbone and the boxes laid out over its maps.

    backbone: float32 [B, 3, H, W] -> maps by name, finest first.
    channels, per_cell: of each map, its channels and its default boxes a cell.
    boxes_xyxy: float32 [A, 4] in pixels; map after map, row by row, cell by cell.
    """

    backbone: nn.Module
    channels: tuple[int, ...]
    per_cell: tuple[int, ...]
    boxes_xyxy: Tensor


def compact_layout(config: Ssd, info: DataInfo) -> Layout:
    """The compact backbone with maps from stride 8 on, as coarse as the picture's size allows."""
    height, width = info.input_shape[1:]
    strides = [stride for stride in STRIDES if min(map_size((height, width), stride)) >= LEAST_CELLS] or [STRIDES[0]]
    sizes = [map_size((height, width), stride) for stride in strides]
    backbone = compact_fpn(config.width, strides)
    count = len(strides)
    boxes_xyxy = default_boxes((height, width), sizes, [RATIOS] * count, MIN_SCALE, MAX_SCALE)
    return Layout(backbone, (backbone.out_channels,) * count, (2 + 2 * len(RATIOS),) * count, boxes_xyxy)
