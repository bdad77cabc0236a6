"""Fast R-CNN (Girshick 2015, arXiv:1504.08083): the picture goes through the network once, each region is pooled from
its map.

As there: one map, the maxima of 7 x 7 cells of each region, two hidden layers, softmax over the classes and smooth L1
on the offsets, learned together. The network is the compact one, a hundredth of VGG-16.
"""

from typing import Literal

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import RoIAlign, RoIPool

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.models.backbone import CompactBackbone, PyramidPooling, Residual
from mlcli.tasks.detection.models.config import FastRCnn
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.regions import RegionDetector

STRIDE = 8
"""Of the map, in pixels. The paper has 16, for pictures of 600 pixels and more; here, objects of 40 pixels would have
two cells, and the embedded scenes were learned a third as well (after 1,600 pictures, an mAP@.5 of 0.03, not 0.08)."""

CELLS = 7  # pooled from a region along each side
HIDDEN = 256  # units; 4096 in the paper
REGIONS = 64  # of a picture that are learned from (section 2.3)


def fast_rcnn(config: FastRCnn, info: DataInfo) -> Detector:
    """Fast R-CNN with the proposals, and the pooling, that a YAML names."""
    trunk, channels = _trunk(config.width)
    look = LookAtMap(config.roi, channels)
    return RegionDetector(config, info, features=trunk, look=look, hidden=HIDDEN, regions=REGIONS)


class LookAtMap(nn.Module):
    """Map [B, C, H / 8, W / 8] and B times boxes [p, 4] in pixels -> [R, HIDDEN], R regions of all pictures.

    pool: the largest value in each of 7 x 7 parts, whose edges are rounded to cells of the map (section 2.1).
    align: the mean of four values in each, read between the cells (He et al. 2017, arXiv:1703.06870, section 3).
    """

    def __init__(self, roi: Literal["pool", "align"], channels: int) -> None:
        super().__init__()
        self.pool = RoIPool(CELLS, 1 / STRIDE) if roi == "pool" else RoIAlign(CELLS, 1 / STRIDE, 2, aligned=True)
        self.head = TwoMLPHead(channels * CELLS**2, HIDDEN)

    def forward(self, features: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return self.head(self.pool(features.float(), boxes))  # RoI pooling knows no half precision on the CPU


def _trunk(width: int) -> tuple[nn.Sequential, int]:
    """The compact backbone as far as stride 8, with two blocks more and the view around that its top has; and how many
    channels its map has."""
    backbone = CompactBackbone(width)
    channels = backbone.channels[1]
    blocks = Residual(channels), Residual(channels), PyramidPooling(channels)
    return nn.Sequential(backbone.stem, backbone.stages[0], backbone.stages[1], *blocks), channels
