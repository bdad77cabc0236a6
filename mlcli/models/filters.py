"""Pictures of the first layer: its filters, and the feature maps of one image.

Filters of a first convolution look like edges and blobs of colour once they have learned something (Krizhevsky et al.
2012, figure 3); noise says that they have not. A perceptron's weights on digits look like the digits themselves.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mlcli.engine.hooks import watch
from mlcli.show.drawing import Tile, picture_of, rising, sheet, signed
from mlcli.text import sides

MOST_FILTERS = 64
MOST_MAPS = 31
"""Next to the image itself: four rows of eight."""
_FILTER_SIDE, _MAP_SIDE = 72, 96

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def filters(model: nn.Module, image: Sequence[int], class_names: Sequence[str] = ()) -> Image.Image | None:
    """The first layer's weights, each neuron's as a small picture; None if it does not see images.

    image: (C, H, W) of the images. class_names: written below the pictures where each has an output in the first layer.

    The first layer is the first convolution or, without any, the first linear layer if it takes the whole image.
    Colours: of three channels the weights themselves, grey where they are 0; else blue below 0, white, orange above.
    Each picture has its own scale.
    """
    layer: nn.Conv2d | nn.Linear | None
    name, layer = _first(nn.Conv2d, model)
    if layer is None:
        name, layer = _first(nn.Linear, model)
        if layer is None or layer.in_features != prod(image):
            return None
    weights = layer.weight.detach().float().cpu()
    if isinstance(layer, nn.Linear):
        weights = weights.reshape(len(weights), *image)
    shown = weights[:MOST_FILTERS]
    count = str(len(weights)) if len(shown) == len(weights) else f"{len(shown)} of {len(weights)}"
    title = f"{count} filters" if isinstance(layer, nn.Conv2d) else f"weights of {count} neurons"
    size = sides(weights.shape[1:])
    colours = "grey is 0" if weights.shape[1] == 3 else "blue below 0, orange above"
    captions = tuple(class_names) if len(weights) == len(class_names) else ()
    tiles = [Tile(_weights_picture(one), captions[n : n + 1]) for n, one in enumerate(shown.numpy())]
    side = _MAP_SIDE if len(tiles) <= 16 else _FILTER_SIDE
    return sheet(title, f"{name}, {size} each; {colours}", tiles, side=side)


def feature_maps(model: nn.Module, image: Tensor, title: str = "feature maps") -> Image.Image | None:
    """Draw the first convolution's output for one image [C, H, W] of values in 0..255; None without a convolution.

    The model is called once, in the mode it is in. Each map has its own scale: dark violet its smallest value, yellow
    its largest.
    """
    name, layer = _first(nn.Conv2d, model)
    if layer is None:
        return None
    seen: list[Tensor] = []

    def keep(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append(output.detach().clone())  # a copy: an activation that follows may write over its input

    with torch.inference_mode(), watch([(name, layer)], after=keep):
        model(image[None].to(layer.weight.device))
    maps = seen[0][0].float().cpu().numpy()  # [channels, height, width]
    shown = maps[:MOST_MAPS]
    count = str(len(maps)) if len(shown) == len(maps) else f"{len(shown)} of {len(maps)}"
    size = sides(maps.shape[1:])
    tiles = [Tile(picture_of(image)), *(Tile(rising(one)) for one in shown)]
    note = f"the image, and {count} maps of {size} after {name}"
    return sheet(title, note, tiles, side=_MAP_SIDE)


def _first(kind: type[Layer], model: nn.Module) -> tuple[str, Layer | None]:
    return next(((name, layer) for name, layer in model.named_modules() if isinstance(layer, kind)), ("", None))


def _weights_picture(weights: np.ndarray) -> Image.Image:
    """[C, H, W] around 0; of other than 1 or 3 channels, their mean."""
    if len(weights) == 3:
        shares = 0.5 + 0.5 * weights / max(np.abs(weights).max(), 1e-12)
        return Image.fromarray((255 * shares.transpose(1, 2, 0)).round().astype(np.uint8))
    return signed(weights.mean(axis=0))
