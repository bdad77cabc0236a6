"""Boxes of images brought to another size: bilinear and antialiased, the same bits with torch and without."""

import math
import sys

import numpy as np

from mlcli.errors import DataError

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the upright image."""
GAP = 2.0  # resolution left by decoding at a fraction, as a multiple of the wanted one; Image.thumbnail's default


def middle(width: int, height: int, image_size: tuple[int, int]) -> Box:
    """The largest box of the wanted shape in the middle: resizing it is resizing the shorter side, then cropping."""
    scale = min(width / image_size[1], height / image_size[0])
    box_width, box_height = image_size[1] * scale, image_size[0] * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def clamped(left: float, top: float, right: float, bottom: float, width: int, height: int) -> Box:
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if not (box[0] < box[2] and box[1] < box[3]):
        corners = f"({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        raise DataError(f"box from {corners} is outside of {width}x{height} pixels")
    return box


def wanted(upright: tuple[int, int], box: Box, image_size: tuple[int, int]) -> tuple[int, int]:
    """Least width and height of the whole image for which its box still has `GAP` times the wanted resolution."""
    width = min(upright[0], math.ceil(GAP * image_size[1] * upright[0] / (box[2] - box[0])))
    height = min(upright[1], math.ceil(GAP * image_size[0] * upright[1] / (box[3] - box[1])))
    return width, height


def shrunk(box: Box, shrink: float, pixels: np.ndarray) -> Box:
    """The box in pixels of an image that was shrunk, within its edges, which decoding has rounded."""
    left, top, right, bottom = (edge / shrink for edge in box)
    return left, top, min(right, pixels.shape[1]), min(bottom, pixels.shape[0])


def resize(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Resize the box of the pixels, [H, W, 3] or [H, W], to fill `out`, uint8 [C, H, W].

    Bilinear and antialiased, by torch's 8-bit kernel: within one grey level of Pillow's and a third of its time (0.3 ms
    of CPU against 0.9 for 400x300 to 224x224). Boxes begin at a whole pixel, as torchvision's. Where torch is not
    loaded, as when an exported model predicts, NumPy gives the same bits.
    """
    height, width = out.shape[1:]
    if pixels.shape[:2] == (height, width) and box == (0, 0, width, height):
        out[...] = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
        return
    tall, wide = box[3] - box[1], box[2] - box[0]  # not always whole: an odd side halved by the decoder
    top, left = min(round(box[1]), int(pixels.shape[0] - tall)), min(round(box[0]), int(pixels.shape[1] - wide))
    part = pixels[top : math.ceil(top + tall), left : math.ceil(left + wide)]
    planes = part.transpose(2, 0, 1) if part.ndim == 3 else part[None]
    # The scales keep fractions (but along a side that has the wanted length already: it is copied, and less than a
    # pixel is lost).
    scales = height / tall, width / wide
    torch = sys.modules.get("torch")
    if torch is None:
        narrow = planes if planes.shape[2] == width else _resized(planes, width, scales[1])
        turned = narrow.swapaxes(1, 2)
        turned = turned if turned.shape[2] == height else _resized(turned, height, scales[0])
        out[...] = turned.swapaxes(1, 2)
        return
    interpolate = torch.ops.aten._upsample_bilinear2d_aa  # of interpolate(), which takes no scales beside a size
    out[...] = interpolate(torch.from_numpy(planes)[None], [height, width], False, *scales)[0].numpy()


def _resized(planes: np.ndarray, length: int, scale: float) -> np.ndarray:
    """Resize the last dimension of uint8 [C, H, W] as torch's 8-bit kernel does, which takes its ways from Pillow's.

    Each pixel that comes out is a weighted mean of those in reach; the weights, a triangle, are 16-bit integers of as
    many binary places as the largest of them allows.
    """
    step = 1.0 / scale
    reach = max(step, 1.0)
    centres = step * (np.arange(length) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((centres + reach + 0.5).astype(np.int64), planes.shape[2]) - first
    places = np.arange(count.max())
    weights = np.maximum(1 - np.abs((places + first[:, None] - centres[:, None] + 0.5) / reach), 0.0)
    weights = np.where(places < count[:, None], weights, 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as torch adds them
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max() * 2.0 ** (bits + 1)) >= 2**15)
    whole = (0.5 + weights * 2.0**bits).astype(np.int32)
    sums = np.full((*planes.shape[:2], length), 1 << (bits - 1), dtype=np.int32)
    for place in places:
        sums += planes[:, :, np.minimum(first + place, planes.shape[2] - 1)] * whole[:, place]
    return np.clip(sums >> bits, 0, 255).astype(np.uint8)
