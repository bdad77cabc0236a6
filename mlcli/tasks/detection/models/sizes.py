"""One detector at several sizes of its input: what follows from the size is exchanged, the weights stay."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mlcli.errors import ConfigError
from mlcli.models.build import seeded
from mlcli.tasks.detection.models.detector import Detector
from mlcli.text import sides

Size = tuple[int, int]


class Sizes:
    """Fit detectors of one kind to the size of what they are given: where cells, anchors and windows lie.

    These are the buffers that are not saved. Each size's are made once, by building a detector of that size.

    Args:
        build: a detector for inputs of a height and width.
        key: of the configuration, that asks for several sizes.
    """

    def __init__(self, build: Callable[[Size], Detector], key: str) -> None:
        self._build, self._key = build, key
        self._buffers: dict[Size, dict[str, Tensor]] = {}

    @torch.inference_mode(mode=False)
    def buffers(self, detector: Detector, size: Size) -> dict[str, Tensor]:
        """Return a size's by name. Raises ConfigError if its weights have other shapes than the detector's."""
        if size not in self._buffers:
            with seeded(0):
                built = self._build(size)
            own, saved = detector.state_dict(), built.state_dict()
            if {name: one.shape for name, one in own.items()} != {name: one.shape for name, one in saved.items()}:
                what = f"this model has other weights at {sides(size)} than at {sides(detector.image_size)}"
                raise ConfigError(what, where=self._key, fix="leave it out, or sizes that are nearer to each other")
            self._buffers[size] = {name: value for name, value in built.named_buffers() if name not in saved}
        return self._buffers[size]

    def fit(self, detector: Detector, size: Size) -> None:
        """Have a detector take images of a height and width."""
        if detector.image_size != size:
            _exchange(detector, size, self.buffers(detector, size))

    @contextmanager
    def at(self, detector: Detector, size: Size) -> Iterator[None]:
        """Within this a detector takes images of a height and width. Then it has the very tensors again that it had:
        CUDA graphs read from where these lie."""
        buffers, before = self.buffers(detector, size), detector.image_size
        own = {name: detector.get_buffer(name) for name in buffers}
        _exchange(detector, size, buffers)
        try:
            yield
        finally:
            _exchange(detector, before, own)


@torch.inference_mode(mode=False)  # what an evaluation has made is trained with as well
def _exchange(detector: Detector, size: Size, buffers: dict[str, Tensor]) -> None:
    detector.image_size = size
    for name, value in buffers.items():
        place, _, leaf = name.rpartition(".")
        setattr(detector.get_submodule(place), leaf, value.to(detector.mean.device))
