"""R-CNN (Girshick et al. 2014, arXiv:1311.2524): every region is cut out, warped, and seen by a CNN alone.

As there: some of the surroundings is cut out too, what lies outside the picture has the mean colour (appendix A), and
boxes are refined by regression (appendix C). Unlike there: the classes are told apart by the network's own softmax, not
by a support vector machine each on its features (appendix B finds 3.3 points of mAP between the two); the regression is
learned along with it, as in Fast R-CNN; the network is small and starts from scratch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.models.backbone import Conv, Residual
from mlcli.tasks.detection.models.config import RCnn
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.regions import RegionDetector

HIDDEN = 128  # units before the two answers
REGIONS = 32  # of a picture that are learned from; the paper draws 128 from all pictures of a batch (section 2.3)
CELLS = 3  # along each side of the last map: enough to tell where in the crop the object ends
SAMPLES = 2  # pixels read along each side for one of the crop: a region of twice its side is averaged, not thinned out

CROPS_AT_ONCE = 1024
"""Crops in memory at a time when all regions are looked at: 28 MB at 48 pixels. A batch may have 20,000 regions."""


def rcnn(config: RCnn, info: DataInfo) -> Detector:
    """R-CNN with the proposals, the crop and the context that a YAML names."""
    look = LookAtCrops(config.crop, config.context, config.width)
    return RegionDetector(config, info, features=nn.Identity(), look=look, hidden=HIDDEN, regions=REGIONS)


def crop_and_warp(images: Tensor, boxes: Sequence[Tensor], side: int, context: float) -> Tensor:
    """Every region with its surroundings, stretched to a square: float32 [R, C, side, side], in the order of `boxes`.

    images: float [B, C, H, W]; what lies outside of one is 0, the mean colour after normalisation.
    boxes: B times float32 [p, 4], corners in pixels; R of all together.
    context: by how much of its sides a box is widened, half of it at each end.
    """
    widened = []
    for corners in boxes:
        margin = (corners[:, 2:] - corners[:, :2]) * (context / 2)
        widened.append(torch.cat([corners[:, :2] - margin, corners[:, 2:] + margin], dim=1))
    return roi_align(images, widened, side, sampling_ratio=SAMPLES, aligned=True)


class LookAtCrops(nn.Module):
    """Normalised pictures [B, 3, H, W] and B times boxes [p, 4] -> [R, HIDDEN], each region cropped and seen alone."""

    def __init__(self, side: int, context: float, width: int) -> None:
        super().__init__()
        self.side, self.context = side, context
        self.net = nn.Sequential(
            Conv(3, width, stride=2),
            Conv(width, 2 * width, stride=2),
            Residual(2 * width),
            Conv(2 * width, 4 * width, stride=2),
            Residual(4 * width),
            Conv(4 * width, 8 * width, stride=2),
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),
            nn.Linear(8 * width * CELLS**2, HIDDEN),
            nn.SiLU(inplace=True),
        )

    def forward(self, images: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        if self.training:  # all at once, for the statistics of the batch norms
            return self.net(crop_and_warp(images, boxes, self.side, self.context))
        seen = []
        for image, regions in zip(images.split(1), boxes, strict=True):
            for some in regions.split(CROPS_AT_ONCE):
                seen.append(self.net(crop_and_warp(image, [some], self.side, self.context)))
        return torch.cat(seen)
