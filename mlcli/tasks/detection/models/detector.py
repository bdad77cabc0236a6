"""What every detector keeps to: one call for training and one for use, both on batches of one shape."""

import torch
from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.models.normalized import PIXEL_PEAK
from mlcli.tasks.detection.targets import Detections, Targets


class Detector(nn.Module):
    """Base of all detectors.

    `forward(images, targets)` takes images uint8 or float32 [B, 3, H, W] in 0..255 and returns (terms, detections):

    * in training mode, the named loss terms, each a mean over the batch, and None;
    * in evaluation mode, the loss terms where they come for free (otherwise an empty dict), and the `Detections`.
      `targets` may be None then. Ground truth never reaches the detections; proposals in it do, for models that are
      told where to look.

    Labels are 1..K outside; 0 is nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.num_classes = info.num_classes
        self.image_size: tuple[int, int] = (info.input_shape[1], info.input_shape[2])
        """Height and width in pixels."""
        self.register_buffer("mean", torch.tensor(info.mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(info.std, dtype=torch.float32).view(1, -1, 1, 1))

    def normalize(self, images: Tensor) -> Tensor:
        """0..255 -> float32 [B, 3, H, W] of mean 0 and standard deviation 1 over the training data."""
        return (images.float() / PIXEL_PEAK - self.mean) / self.std

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[dict[str, Tensor], Detections | None]:
        raise NotImplementedError
