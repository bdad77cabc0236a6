"""What in an image decided: a heat map over it, from the last map that a convolutional network makes of it.

LayerCAM (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 30,
equations 4 to 6): at each place, what raises the class's score, times by how much. Where a network takes the mean of
its last map, each place has the same gradient, and what lowers the score counts as well: that is Grad-CAM (Selvaraju et
al. 2017, arXiv:1610.02391, equations 1 and 2). Both pass the test of Adebayo et al. 2018 (arXiv:1810.03292): other
weights, another map. A map says where the network looked, not what it saw there.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcli.engine.hooks import watch
from mlcli.errors import ConfigError


class Heat(NamedTuple):
    """maps: float32 [B, h, w] on the CPU, from 0 to 1, the hottest place of each; all 0 where nothing spoke for the
    class. layer: the name of the layer whose output they are over. method: LayerCAM or Grad-CAM."""

    maps: Tensor
    layer: str
    method: str


def heat_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Heat:
    """Return what in each image speaks for a class.

    Args:
        model: in evaluation mode; it is left as it is.
        images: [B, C, H, W] as the model takes them, on its device.
        classes: int64 [B], columns of the model's output [B, outputs].

    Raises ConfigError for a network without maps of the image, such as an MLP or a transformer.
    """
    with torch.inference_mode(False):
        images = images.clone()  # of no inference mode around
        name, layer = _last_map(model, images[:1])
        leaf: list[Tensor] = []

        def cut(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            leaf[:] = [output.detach().requires_grad_()]
            return leaf[0].clone()  # an activation that follows may write over its input

        hook = layer.register_forward_hook(cut)
        try:
            with torch.enable_grad():
                scores = model(images).gather(1, classes.to(images.device)[:, None])
                (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        finally:
            hook.remove()
    values = leaf[0].detach()
    is_mean = bool((gradient == gradient[:, :, :1, :1]).all())
    weights = gradient if is_mean else gradient.clamp(min=0)
    heat = (weights * values).sum(dim=1).clamp(min=0).float()
    heat = heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return Heat(heat.cpu(), name, "Grad-CAM" if is_mean else "LayerCAM")


def _last_map(model: nn.Module, image: Tensor) -> tuple[str, nn.Module]:
    """Name and module of what makes the last map [1, C, h, w] of more than one place."""
    found: list[tuple[str, nn.Module]] = []
    height, width = image.shape[2:]

    def look(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 3:  # words of a sentence, one for each patch: the places of a map before are mixed
            found.clear()
        elif output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            rows, columns = output.shape[2:]
            if abs(columns - width * rows / height) <= 1:  # else channels come last
                found.append((name, layer))

    with torch.no_grad(), watch(model.named_modules(), after=look):
        model(image)
    if not found:
        what = "this model makes no map of an image that a heat map could lie over"
        fix = "it is for networks of convolutions: cnn, vgg, resnet and others"
        raise ConfigError(what, where="--explain", fix=fix)
    return found[-1]
