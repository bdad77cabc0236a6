"""Changing colours: brightness, contrast, saturation, hue, grey. Every sample of a batch by its own amount.

Images are [B, C, H, W] with C = 1 or 3, uint8 or float32 in 0..255; results are float32 in 0..255. Definitions as in
torchvision. Images of one channel have no saturation and no hue, so those leave them alone.
"""

import torch
from torch import Tensor

from mlcli.data.randomness import KeyedRandom

_LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in grey, ITU-R BT.601, as torchvision rounds them


def random_colour(
    images: Tensor,
    random: KeyedRandom,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.0,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, always in this order (torchvision shuffles it for each batch).

    brightness, contrast, saturation: factors are drawn from [1 - value, 1 + value]. hue: turns, from [-value, value].
    """
    for adjust, spread in (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
    ):
        if spread:
            images = adjust(images, random.uniform(max(0.0, 1 - spread), 1 + spread))
    return adjust_hue(images, random.uniform(-hue, hue)) if hue else images


def random_grey(images: Tensor, random: KeyedRandom, *, p: float = 0.1) -> Tensor:
    """Take the colour out of some samples; keeps the type and the number of channels."""
    if images.shape[1] == 1:
        return images
    without = grey(images)
    if images.dtype == torch.uint8:
        without = without.round()
    return torch.where(_per_sample(random.bernoulli(p)), without.to(images.dtype), images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is black, 1 changes nothing. factor: float32 [B], here and below."""
    return (images * _per_sample(factor)).clamp(0, 255)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 is the image's mean grey everywhere, 1 changes nothing."""
    return _blend(images, grey(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 is grey, 1 changes nothing."""
    return _blend(images, grey(images), factor) if images.shape[1] == 3 else images


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of the HSV hexcone (Smith 1978) by `turns` full circles, keeping saturation and value."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().unbind(1)
    value = torch.maximum(red, torch.maximum(green, blue))
    chroma = value - torch.minimum(red, torch.minimum(green, blue))
    width = torch.where(chroma > 0, chroma, 1)  # grey has no hue; any will do
    sextant = torch.where(
        value == red,
        (green - blue) / width,
        torch.where(value == green, 2 + (blue - red) / width, 4 + (red - green) / width),
    )
    sextant = sextant + 6 * turns[:, None, None]
    # How far each channel lies below the brightest one: a trapezium around the circle, shifted from channel to channel.
    below = [((shift + sextant) % 6) for shift in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in below], dim=1)


def grey(images: Tensor) -> Tensor:
    """Luma, with as many channels as the image has; float32."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return luma.unsqueeze(1).expand_as(images)


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of the image and the rest of the other; shares above 1 lead away from the other."""
    share = _per_sample(share)
    return (share * images + (1 - share) * other).clamp(0, 255)


def _per_sample(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
