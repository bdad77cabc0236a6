"""One detector at several sizes of its input: what follows from the size is exchanged, the weights stay."""

from collections.abc import Callable, Sequence

from torch import Tensor

from mlcli.errors import ConfigError
from mlcli.tasks.detection.models.detector import Detector
from mlcli.text import sides

Size = tuple[int, int]


class Sizes:
    """Fit detectors of one kind to the size of what they are given: where cells, anchors and windows lie.

    These are the buffers that are not saved. Each size's are made once, by building a detector of that size.

    Args:
        build: a detector for inputs of a height and width.
        sizes: that are asked for.

    Raises ConfigError if the weights for one of the sizes have other shapes.
    """

    def __init__(self, build: Callable[[Size], Detector], sizes: Sequence[Size]) -> None:
        self._buffers: dict[Size, dict[str, Tensor]] = {}
        shapes: dict[Size, dict[str, Size]] = {}
        for size in sizes:
            detector = build(size)
            saved = detector.state_dict()
            shapes[size] = {name: tuple(value.shape) for name, value in saved.items()}
            self._buffers[size] = {name: value for name, value in detector.named_buffers() if name not in saved}
        if odd := next((size for size in sizes if shapes[size] != shapes[sizes[0]]), None):
            what = f"this model has other weights at {sides(odd)} than at {sides(sizes[0])}"
            raise ConfigError(what, where="multi_scale", fix="sizes that are nearer to each other")

    def fit(self, detector: Detector, images: Tensor) -> None:
        """Have a detector take images, [B, 3, H, W]."""
        height, width = images.shape[2:]
        if detector.image_size == (height, width):
            return
        detector.image_size = (height, width)
        for name, value in self._buffers[height, width].items():
            place, _, leaf = name.rpartition(".")
            setattr(detector.get_submodule(place), leaf, value.to(detector.mean.device))
