"""What the layer before the last makes of samples, for TensorBoard's projector: alike samples lie close together."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcli.data.source import Samples
from mlcli.engine.contract import Embeddings
from mlcli.models.layers import last_layer

SPRITE_SIDE = 32
_BATCH = 256


def embed(model: nn.Module, samples: Samples, class_names: tuple[str, ...], limit: int) -> Embeddings:
    """The inputs of the last layer for up to `limit` samples, evenly spread over the split; maps as their mean.

    The model is put into evaluation mode and left in it.
    """
    indices = np.unique(np.linspace(0, len(samples) - 1, min(limit, len(samples))).round().astype(np.int64))
    head, seen, sprites = last_layer(model)[1], [], []
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(_vectors(inputs[0])))
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(indices), _BATCH):
                inputs = samples.read(indices[start : start + _BATCH])
                model(inputs.to(head.weight.device))
                if inputs.ndim == 4:
                    sprites.append(_sprites(inputs))
    finally:
        handle.remove()
    labels = samples.targets[torch.from_numpy(indices)].tolist()
    names = [class_names[label] for label in labels]
    return Embeddings(torch.cat(seen), names, torch.cat(sprites) if sprites else None)


def _vectors(inputs: Tensor) -> Tensor:
    """[B, F] as they are, [B, F, H, W] by their mean: float32 [B, F] on the CPU."""
    return (inputs.mean(dim=(2, 3)) if inputs.ndim == 4 else inputs).float().cpu()


def _sprites(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, 3, 32, 32], stretched to squares."""
    shown = images if images.shape[1] in (1, 3) else images[:, :1]
    small = functional.interpolate(shown.float(), (SPRITE_SIDE, SPRITE_SIDE), mode="area")
    return small.round().byte().expand(-1, 3, -1, -1)
