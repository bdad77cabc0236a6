"""Pixels of a batch, fetched once from where a placement says they come from."""

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.data.decode import PAD_VALUE
from mlcli.tasks.detection.data.augment.placement import Placement, inverted


class Resample:
    """Where every pixel that comes out comes from; `images` and `masks` fetch it.

    placement: of B pictures. image_size: height and width of them all, before and after.
    """

    def __init__(self, placement: Placement, image_size: tuple[int, int]) -> None:
        height, width = image_size
        device = placement.outer.device
        across = (torch.arange(width, device=device) + 0.5)[None, None, :]
        down = (torch.arange(height, device=device) + 0.5)[None, :, None]
        to_canvas = inverted(placement.outer)
        to_picture = inverted(placement.inner) @ to_canvas[:, None]
        canvas_x, canvas_y = _mapped(to_canvas, across, down)  # [B, H, W] each
        x, y = _mapped(to_picture[:, 0], across, down)
        part = torch.zeros_like(x, dtype=torch.int64)
        shown = _within(placement, 0, canvas_x, canvas_y)
        for number in range(1, placement.picture.shape[1]):
            here = _within(placement, number, canvas_x, canvas_y)
            own_x, own_y = _mapped(to_picture[:, number], across, down)
            x, y, part = torch.where(here, own_x, x), torch.where(here, own_y, y), torch.where(here, number, part)
            shown = shown | here
        self._inside = shown & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        self._part, self._picture = part, placement.picture
        # Half a pixel from the border, so that nothing is blended with the picture above or below.
        y = y.clamp(0.5, height - 0.5)
        above = placement.picture.gather(1, part.flatten(1)).view_as(part) * height
        num = placement.picture.shape[0] * height
        self._tall_grid = torch.stack([x * (2 / width) - 1, (y + above) * (2 / num) - 1], -1)
        self._grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1)

    def images(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> float32, bilinear, grey where there is no picture."""
        batch, channels, height, width = images.shape
        # All pictures in one tall column: each pixel may come from any of them.
        column = images.transpose(0, 1).float().reshape(1, channels, batch * height, width)
        fetched = functional.grid_sample(
            column.expand(batch, -1, -1, -1), self._tall_grid, padding_mode="border", align_corners=False
        )
        return torch.where(self._inside[:, None], fetched, PAD_VALUE)

    def masks(self, masks: Tensor) -> Tensor:
        """uint8 [B, M, H, W] of the pictures that went in -> [B, P * M, H, W] of those that come out, 0 or 1."""
        parts = []
        for number in range(self._picture.shape[1]):
            of_picture = masks[self._picture[:, number]].float()
            fetched = functional.grid_sample(
                of_picture, self._grid, mode="nearest", padding_mode="border", align_corners=False
            )
            seen = self._inside & (self._part == number)
            parts.append(fetched.to(torch.uint8) * seen[:, None])
        return torch.cat(parts, 1)


def _within(placement: Placement, number: int, x: Tensor, y: Tensor) -> Tensor:
    """Which points of the canvases, [B, H, W], are in the window of a part."""
    left, top, right, bottom = (edge[:, number, None, None] for edge in placement.windows)
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def _mapped(maps: Tensor, across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of all pixels, [B, H, W] each. maps: [B, 3, 3]; across [1, 1, W]; down [1, H, 1]."""
    x, y = (
        maps[:, row, 0, None, None] * across + maps[:, row, 1, None, None] * down + maps[:, row, 2, None, None]
        for row in (0, 1)
    )
    return x, y
