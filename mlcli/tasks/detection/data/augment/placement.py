"""Placement of the pictures of a batch in the pictures that come out: maps of the plane, boxes moved by them, and
pixels resampled once.

Maps are float32 [..., 3, 3] and take a point (x, y, 1), in pixels from the upper left corner, to where it comes out;
pixel (0, 0) covers 0 to 1. Maps are multiplied, so pixels are resampled only once, and what one map moves out of sight
and the next back in has never been away.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.data.decode import PAD_VALUE

_FAR = 1e6  # pixels; beyond all that is ever seen


@dataclass(frozen=True)
class Placement:
    """B pictures that come out, each put together from P of the B that went in; P is 1 without mosaic.

    picture: int64 [B, P], which of those that went in.
    inner: float32 [B, P, 3, 3], from pixels of that picture to the canvas it is put on.
    windows: four float32 [B, P] (left, top, right, bottom), where it shows on that canvas.
    outer: float32 [B, 3, 3], what has happened to the canvas since.
    """

    picture: Tensor
    inner: Tensor
    windows: tuple[Tensor, Tensor, Tensor, Tensor]
    outer: Tensor

    @classmethod
    def unchanged(cls, batch: int, device: torch.device) -> "Placement":
        """Return the placement that leaves every picture as it is."""
        same = torch.eye(3, device=device).expand(batch, 3, 3)
        far = torch.full((batch, 1), _FAR, device=device)
        return cls(torch.arange(batch, device=device)[:, None], same[:, None], (-far, -far, far, far), same)

    def then(self, maps: Tensor) -> "Placement":
        """maps: float32 [B, 3, 3], applied to what comes out so far."""
        return replace(self, outer=maps @ self.outer)

    def move(self, boxes_xyxy: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes of the pictures that went in, float32 [B, R, 4], to those that come out.

        Returns [B, P * R, 4], boxes around the moved corners, cut to what is seen of them; and how much of each that
        is, in shares of the uncut box: [B, P * R], 0 for boxes without area.
        """
        height, width = image_size
        left, top, right, bottom = (edge[..., None] for edge in self.windows)
        on_canvas, shown = _cut(moved(self.inner, boxes_xyxy[self.picture]), left, top, right, bottom)  # [B, P, R, 4]
        zero = left.new_zeros(())
        come_out, seen = _cut(moved(self.outer[:, None], on_canvas), zero, zero, zero + width, zero + height)
        return come_out.flatten(1, 2), (shown * seen).flatten(1, 2)


def moved(maps: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """The boxes around the moved corners of boxes. maps: [..., 3, 3]; boxes: [..., R, 4]."""
    left, top, right, bottom = boxes_xyxy.unbind(-1)
    across = torch.stack([left, right, left, right], -1)  # [..., R, 4 corners]
    down = torch.stack([top, top, bottom, bottom], -1)
    x, y = _mapped(maps, across, down)
    return torch.stack([x.amin(-1), y.amin(-1), x.amax(-1), y.amax(-1)], -1)


def inverted(maps: Tensor) -> Tensor:
    """By the adjugate: torch.linalg.inv looks at its result, for which a GPU waits. Maps keep parallels parallel."""
    (a, b, x), (c, d, y) = (maps[..., row, :].unbind(-1) for row in (0, 1))
    scale = 1 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    return stacked(a, b, -(a * x + b * y), c, d, -(c * x + d * y))


def stacked(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """[[a, b, x], [c, d, y], [0, 0, 1]] of numbers float32 [...]: [..., 3, 3]."""
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, -1) for row in ((a + zero, b + zero, x), (c + zero, d + zero, y), (zero, zero, zero + 1))]
    return torch.stack(rows, -2)


def scaled(x_scale: Tensor, y_scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The map that magnifies about the upper left corner and then shifts."""
    zero = torch.zeros_like(x)
    return stacked(x_scale, zero, x, zero, y_scale, y)


def _cut(boxes_xyxy: Tensor, left: Tensor, top: Tensor, right: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes cut to a window, and the share of their area that is left."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    kept = [x1.clamp(left, right), y1.clamp(top, bottom), x2.clamp(left, right), y2.clamp(top, bottom)]
    whole = (x2 - x1) * (y2 - y1)
    part = (kept[2] - kept[0]) * (kept[3] - kept[1])
    return torch.stack(kept, -1), torch.where(whole > 0, part / whole.clamp(min=1e-12), 0)


class Resample:
    """Resampling by a placement: the source of every pixel that comes out; `images` and `masks` fetch it.

    placement: of B pictures. image_size: height and width of them all, before and after.
    """

    def __init__(self, placement: Placement, image_size: tuple[int, int]) -> None:
        height, width = image_size
        device = placement.outer.device
        across = (torch.arange(width, device=device) + 0.5)[None, None, :]
        down = (torch.arange(height, device=device) + 0.5)[None, :, None]
        to_canvas = inverted(placement.outer)
        to_picture = inverted(placement.inner) @ to_canvas[:, None]
        picture = placement.picture[:, :, None, None]
        x, y = _mapped(to_picture[:, 0], across, down)  # [B, H, W] each
        # One part has no window, all of its canvas shows; and its numbers stay single ones, [B, 1, 1].
        part, source, shown = torch.zeros_like(picture[:, 0]), picture[:, 0], None
        if picture.shape[1] > 1:
            canvas_x, canvas_y = _mapped(to_canvas, across, down)
            shown = _within(placement, 0, canvas_x, canvas_y)
            for number in range(1, picture.shape[1]):
                here = _within(placement, number, canvas_x, canvas_y)
                own_x, own_y = _mapped(to_picture[:, number], across, down)
                x, y, part = torch.where(here, own_x, x), torch.where(here, own_y, y), torch.where(here, number, part)
                source, shown = torch.where(here, picture[:, number], source), shown | here
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        self._inside = inside if shown is None else inside & shown
        self._part, self._source, self._picture = part, source, placement.picture
        # Half a pixel from the border, so that nothing is blended with the picture above or below.
        self._x, self._y = x, y.clamp_(0.5, height - 0.5)

    def images(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> float32, bilinear, grey where there is no picture."""
        batch, channels, height, width = images.shape
        # All pictures in one tall column: each pixel may come from any of them.
        column = images.transpose(0, 1).float().reshape(1, channels, batch * height, width)
        grid = _grid(self._x, self._y + self._source * height, width, batch * height)
        fetched = functional.grid_sample(
            column.expand(batch, -1, -1, -1), grid, padding_mode="border", align_corners=False
        )
        # torch.where takes four times as long on a CPU
        return fetched.sub_(PAD_VALUE).mul_(self._inside[:, None]).add_(PAD_VALUE)

    def masks(self, masks: Tensor) -> Tensor:
        """uint8 [B, M, H, W] of the pictures that went in -> [B, P * M, H, W] of those that come out, 0 or 1."""
        grid, parts = _grid(self._x, self._y, masks.shape[3], masks.shape[2]), []
        for number in range(self._picture.shape[1]):
            of_picture = masks[self._picture[:, number]].float()
            fetched = functional.grid_sample(
                of_picture, grid, mode="nearest", padding_mode="border", align_corners=False
            )
            seen = self._inside & (self._part == number)
            parts.append(fetched.to(torch.uint8) * seen[:, None])
        return torch.cat(parts, 1)


def _within(placement: Placement, number: int, x: Tensor, y: Tensor) -> Tensor:
    """Return the mask [B, H, W] of the points of the canvases that are in the window of a part."""
    left, top, right, bottom = (edge[:, number, None, None] for edge in placement.windows)
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def _grid(x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    """Return points in pixels, [B, H, W] each, as grid_sample takes them: [B, H, W, 2], the picture from -1 to 1."""
    across, down = (x * (2 / width)).sub_(1), (y * (2 / height)).sub_(1)
    return torch.view_as_real(torch.complex(across, down))  # torch.stack takes four times as long on a CPU


def _mapped(maps: Tensor, across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of points, [..., M, N] each. maps: [..., 3, 3]; across and down broadcast against [..., M, N]."""
    x, y = (
        (maps[..., row, 0, None, None] * across + maps[..., row, 2, None, None]) + maps[..., row, 1, None, None] * down
        for row in (0, 1)
    )
    return x, y
