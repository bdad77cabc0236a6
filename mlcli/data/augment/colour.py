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
    return (images * _per_sample(factor)).clamp_(0, 255)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 is the image's mean grey everywhere, 1 changes nothing."""
    return _blend(images, _luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 is grey, 1 changes nothing."""
    return _blend(images, _luma(images), factor) if images.shape[1] == 3 else images


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of the HSV hexcone (Smith 1978) by `turns` full circles, keeping saturation and value."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().unbind(1)
    value = torch.maximum(red, torch.maximum(green, blue))
    chroma = value - torch.minimum(red, torch.minimum(green, blue))
    width = chroma.clamp(min=1e-9)  # grey has no hue: all of its differences are 0, and so is what is divided here
    hue = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, torch.add(blue - red, width, alpha=2), torch.add(red - green, width, alpha=4)),
    ).div_(width)
    hue = hue.add_(6 * turns[:, None, None]).remainder_(6)  # in sextants: red is 0, green 2, blue 4
    changed = torch.empty_like(images, dtype=torch.float32)
    # How far each channel lies below the brightest one, in chromas: a trapezium around the circle.
    for channel, below in zip(
        changed.unbind(1), (2 - (hue - 3).abs_(), (hue - 2).abs_() - 1, (hue - 4).abs_() - 1), strict=True
    ):
        torch.addcmul(value, chroma, below.clamp_(0, 1), value=-1, out=channel)
    return changed


def grey(images: Tensor) -> Tensor:
    """Luma, with as many channels as the image has; float32."""
    return _luma(images).expand_as(images)


def _luma(images: Tensor) -> Tensor:
    """Luma, float32 [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(1)
    return (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])[:, None]


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of the image and the rest of the other, which broadcasts; shares above 1 lead away from the other."""
    share = _per_sample(share)
    return (share * images).add_((1 - share) * other).clamp_(0, 255)


def _per_sample(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
