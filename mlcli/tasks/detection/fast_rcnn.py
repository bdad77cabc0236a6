"""Fast R-CNN (Girshick 2015, arXiv:1504.08083): the picture goes through the network once, each region is pooled from
its map.

As there: one map of stride 16, the maxima of 7 x 7 cells of each region, two hidden layers, softmax over the classes
and smooth L1 on the offsets, learned together. The network is the compact one, a hundredth of VGG-16.
"""

from typing import Literal

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import RoIAlign, RoIPool

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.backbone import CompactBackbone, Conv, PyramidPooling
from mlcli.tasks.detection.config_models import FastRCnn
from mlcli.tasks.detection.detector import Detector
from mlcli.tasks.detection.regions import RegionDetector

STRIDE = 16
CELLS = 7  # pooled from a region along each side
CHANNELS = 4  # of the map in widths: 64 at width 16
HIDDEN = 256  # units; 4096 in the paper
REGIONS = 64  # of a picture that are learned from (section 2.3)


def fast_rcnn(config: FastRCnn, info: DataInfo) -> Detector:
    """Fast R-CNN with the proposals, and the pooling, that a YAML names."""
    channels = CHANNELS * config.width
    return RegionDetector(
        config,
        info,
        features=_trunk(config.width, channels),
        look=LookAtMap(config.roi, channels),
        hidden=HIDDEN,
        regions=REGIONS,
    )


class LookAtMap(nn.Module):
    """Map [B, C, H / 16, W / 16] and B times boxes [p, 4] in pixels -> [R, HIDDEN], R regions of all pictures.

    pool: the largest value in each of 7 x 7 parts, whose edges are rounded to cells of the map (section 2.1).
    align: the mean of four values in each, read between the cells (He et al. 2017, arXiv:1703.06870, section 3).
    """

    def __init__(self, roi: Literal["pool", "align"], channels: int) -> None:
        super().__init__()
        self.pool = RoIPool(CELLS, 1 / STRIDE) if roi == "pool" else RoIAlign(CELLS, 1 / STRIDE, 2, aligned=True)
        self.head = TwoMLPHead(channels * CELLS**2, HIDDEN)

    def forward(self, features: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return self.head(self.pool(features, boxes))


def _trunk(width: int, channels: int) -> nn.Sequential:
    """The compact backbone as far as stride 16."""
    backbone = CompactBackbone(width)
    deep = backbone.channels[2]
    stages = (backbone.stages[level] for level in range(3))
    return nn.Sequential(backbone.stem, *stages, PyramidPooling(deep), Conv(deep, channels, kernel_size=1))
