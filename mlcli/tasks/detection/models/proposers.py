"""What looks for regions worth a look in a picture, before anybody knows what is in them: a function of its pixels.

Selective search merges neighbouring patches of similar colour, texture and size (Uijlings et al. 2013, IJCV 104); a
trained region proposal network is step 2 of the 4-step training in Ren et al. 2015 (arXiv:1506.01497, section 3.2).
"""

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mlcli.data.info import DataInfo
from mlcli.data.randomness import permutation
from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.limits import usable_cpus
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError, ConfigError
from mlcli.models.start import load_saved
from mlcli.tasks.detection.models.config import Proposals, TorchvisionDetector
from mlcli.tasks.detection.models.sliding import sliding_windows
from mlcli.text import sides


class Proposer(Protocol):
    """Finds regions in pictures as models get them."""

    identity: str
    """All that the regions depend on besides the pixels."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """uint8 [B, 3, H, W] -> B times float32 [p, 4] on the CPU, corners in pixels, best first."""


def proposer(config: Proposals, info: DataInfo) -> Proposer:
    """The method a YAML names, for inputs of the shape in `info`.

    Raises ConfigError if selective search is not installed or the run does not fit, CheckpointError if it holds no
    trained network.
    """
    match config.method:
        case "sliding":
            return Sliding(config.most)
        case "selective_search":
            return SelectiveSearch(config.most)
        case "rpn":
            assert config.run is not None
            return RegionNetwork(config.run, config.most, info)


class Sliding:
    """The same windows in every picture."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.identity = f"sliding, most {most}"

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [sliding_windows(images.shape[2], images.shape[3], self._most)] * len(images)


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
                fix="pip install 'mlcli[proposals]', in place of any other opencv package: all own the name cv2",
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
        corners = np.unique(np.asarray(search.process()).reshape(-1, 4), axis=0).astype(
            np.float32
        )  # x, y, width, height
        corners[:, 2:] += corners[:, :2]
        order = permutation(len(corners), seed=zlib.crc32(pixels.tobytes()), epoch=0)
        return torch.from_numpy(corners[order[: self._most]])


class RegionNetwork:
    """The region proposal network of a trained faster_rcnn or mask_rcnn run.

    Args:
        run: the run's folder; its best weights are used.
        most: regions kept, those most likely to hold an object.
        info: of the pictures to come; they must be prepared as the network's were.
    """

    def __init__(self, run: Path, most: int, info: DataInfo) -> None:
        path = open_run(run).checkpoint("best")
        saved = load_checkpoint(path)
        config = _detector_config(saved, path)
        theirs = DataInfo.from_plain(saved["facts"]["data"])
        for what, here, there in (
            ("image_size", info.input_shape[1:], theirs.input_shape[1:]),
            ("fit", info.preparation.get("fit"), theirs.preparation.get("fit")),
        ):
            if here != there:
                raise ConfigError(
                    f"the region proposal network has learned from pictures of data.{what} {_plain(there)}, "
                    f"these have {_plain(here)}",
                    where="model.proposals.run",
                    fix=f"set data.{what} to {_plain(there)}, or train another faster_rcnn",
                )
        self._detector: Any = config.build(theirs)
        load_saved(self._detector, model_weights(saved), path)
        self._detector.eval().requires_grad_(False)
        self._most = most
        digest = hashlib.sha256()
        for name, tensor in self._detector.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        self.identity = f"region proposal network {digest.hexdigest()}, most {most}"

    @torch.no_grad()  # not inference_mode: a detector in training keeps the boxes for its backward pass
    def __call__(self, images: Tensor) -> list[Tensor]:
        self._detector.to(images.device)
        return [boxes.cpu() for boxes in self._detector.propose(images, self._most)]


def _detector_config(saved: dict[str, Any], path: Path) -> TorchvisionDetector:
    model = saved["config"].get("model", {})
    if model.get("name") not in ("faster_rcnn", "mask_rcnn"):
        raise CheckpointError(
            f"a run of {model.get('name')} has no region proposal network",
            where=str(path),
            fix="give model.proposals.run the folder of a faster_rcnn run",
        )
    return TorchvisionDetector.model_validate(model | {"weights": "none"})  # its own weights follow


def _plain(value: Any) -> str:
    return sides(value) if isinstance(value, tuple) else str(value)
