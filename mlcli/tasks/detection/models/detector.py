"""The interface of all detectors: one call for training and one for use, both on batches of one shape."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from torch import Tensor, nn

from mlcli.data.inspection import IMAGENET_MEAN, IMAGENET_STD
from mlcli.engine.terms import Terms
from mlcli.models.layers import PIXEL_PEAK
from mlcli.tasks.detection.boxes import clip
from mlcli.tasks.detection.nms import Method, suppress
from mlcli.tasks.detection.targets import Detections, Targets


class Common(TypedDict, total=False):
    """Keywords that all detectors take; see `Detector`."""

    mean: Sequence[float]
    std: Sequence[float]
    score_threshold: float
    nms_iou: float
    max_detections: int


class CommonSingleShot(Common, total=False):
    """And those of `SingleShot`."""

    nms: Method


class Detector(nn.Module):
    """Base of all detectors.

    `forward(images, targets)` takes images uint8 or float32 [B, 3, H, W] in 0..255 and returns (terms, detections):

    * in training mode, the named loss terms, and None;
    * in evaluation mode, the loss terms where they come for free (otherwise an empty dict), and the `Detections`.
      `targets` may be None then. Ground truth never reaches the detections; proposals in it do, for models that look
      only there.

    Labels are 1..K outside; 0 is nothing.

    Args:
        num_classes: K.
        image_size: height and width of the images in pixels.
        mean, std: of each channel of the training images, for values divided by 255.
        score_threshold: detections less certain than this are dropped before suppression.
        nms_iou: of two boxes of one class that overlap by more, the less certain is dropped.
        max_detections: most detections kept of one image.
    """

    is_static: ClassVar[bool] = False
    counts_alike: ClassVar[bool] = True
    has_masks: ClassVar[bool] = False
    """Whether it learns from masks and finds them. For the others see `mlcli.engine.contract.Task`."""
    nms: Method = "hard"
    """How boxes of one class that mean the same object are reduced to one; torchvision's have only this."""

    mean: Tensor
    std: Tensor
    notes: tuple[str, ...] = ()
    """For people: which weights learned elsewhere were loaded, and which did not fit."""
    unloaded: frozenset[str] = frozenset()
    """Where some were loaded, the names of the parameters that were not."""

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        score_threshold: float = 0.01,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.num_classes, self.image_size = num_classes, image_size
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def normalize(self, images: Tensor) -> Tensor:
        """0..255 -> float32 [B, 3, H, W] of mean 0 and standard deviation 1 over the training data.

        Not `models.Normalized`, which rounds otherwise: runs of version 0.1.0 have these bits, and these buffers.
        """
        return (images.float() / PIXEL_PEAK - self.mean) / self.std

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[Terms, Detections | None]:
        raise NotImplementedError

    def places(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the places in a picture that boxes are predicted from, and the object that each of them is to learn.

        images, targets: of the one picture.
        Boxes float32 [A, 4] in pixels of the input, without area where places are points, and int64 [A]: the row of an
        object, or negative for none. No places from a detector that does not say: it has no pictures of them.
        """
        return targets.boxes_xyxy.new_zeros(0, 4), torch.zeros(0, dtype=torch.int64)


class SingleShot(Detector):
    """Base of detectors that predict at fixed places in one pass, with losses and suppression of this project.

    Shapes are those of the image alone, so that it compiles and never waits for the host in training.

    Args:
        nms: how boxes of one class that mean the same object are reduced to one; see `suppress`.
    """

    is_static = True

    def __init__(
        self, num_classes: int, image_size: tuple[int, int], *, nms: Method = "hard", **common: Unpack[Common]
    ) -> None:
        super().__init__(num_classes, image_size, **common)
        self.nms = nms

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[Terms, Detections | None]:
        assert targets is not None or not self.training, "training needs targets"
        predictions = self.predict(self.normalize(images))
        with torch.autocast(images.device.type, enabled=False):  # half precision places a box no better than 1 in 2048
            terms: Terms = {} if targets is None else self.losses(predictions, targets)
            if self.training:
                return terms, None
            boxes_xyxy, scores = self.candidates(predictions)
            boxes_xyxy = clip(boxes_xyxy, *self.image_size)
            return terms, suppress(
                boxes_xyxy, scores, self.nms_iou, self.score_threshold, self.max_detections, self.nms
            )

    def predict(self, pixels: Tensor) -> Any:
        """Normalised images [B, 3, H, W] -> raw predictions, float32."""
        raise NotImplementedError

    def losses(self, predictions: Any, targets: Targets) -> Terms:
        """Named loss terms, over the boxes that learn objects, times their gains."""
        raise NotImplementedError

    def candidates(self, predictions: Any) -> tuple[Tensor, Tensor]:
        """Boxes float32 [B, N, 4] as xyxy in pixels, and the score of each class in 0..1, float32 [B, N, K]."""
        raise NotImplementedError
