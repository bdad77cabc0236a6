"""RoIAlign as looking up rows of a table, which takes a CPU a seventh of the time of torchvision's kernel.

RoIAlign (He et al. 2017, arXiv:1703.06870, section 3) divides a region into parts, reads a map at a few points of each,
between its cells, and takes their mean. A point is a weighted mean of the four cells around it; so a part is a weighted
sum of rows of a table that holds the cells of all maps, a row each. All channels of a row are summed at once, where the
kernel finds cells and weights anew for every channel.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _setup_scales


class RegionAlign(MultiScaleRoIAlign):
    """torchvision's pooling of regions from several maps: the same but for the last bits, and quick on a CPU.

    maps: by name float [B, C, H_l, W_l]; boxes: B times float32 [p, 4] in pixels of the images, whose sizes are given.
    Returns float [R, C, cells, cells], R regions of all images.
    """

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        used = [values for name, values in maps.items() if name in self.featmap_names]
        if used[0].device.type != "cpu":  # there the kernel is quick
            return super().forward(maps, boxes, image_sizes)
        scales, level_of = _setup_scales(used, image_sizes, self.canonical_scale, self.canonical_level)
        images = torch.cat([torch.full((len(some),), image) for image, some in enumerate(boxes)])
        levels = level_of(boxes).clamp(0, len(used) - 1)  # of a region that is nowhere, too
        scaled = torch.cat(boxes) * torch.tensor(scales)[levels, None]
        rows, weights = _cells_read(used, images, levels, scaled, self.output_size[0], self.sampling_ratio)
        table = torch.cat([values.permute(0, 2, 3, 1).flatten(0, 2) for values in used])
        parts = _WeightedRows.apply(table, rows.flatten(0, 2), weights.flatten(0, 2).to(table.dtype))
        return parts.unflatten(0, rows.shape[:3]).permute(0, 3, 1, 2)


@torch.no_grad()
def _cells_read(
    maps: list[Tensor], images: Tensor, levels: Tensor, corners: Tensor, cells: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Return which cells each part of a region is read from and how much of each.

    maps: [B, C, H_l, W_l]. images, levels: int64 [R], the region's image and map. corners: float [R, 4], x1 y1 x2 y2 in
    cells of that map. cells: parts along a side. samples: points along a side of a part. Returns rows int64 and weights
    float, both [R, cells, cells, (2 samples)^2]; rows are those of a table of all cells of the first map, image by
    image from the top left, then of the next.
    """
    heights, widths = (torch.tensor([values.shape[side] for values in maps])[levels] for side in (2, 3))
    firsts = torch.tensor([0, *(values[:, 0].numel() for values in maps)]).cumsum(0)[levels] + images * heights * widths
    sides = (corners[:, 2:] - corners[:, :2]).clamp(min=1)  # as torchvision does, and the paper's authors did
    xs, x_weights = _along_side(corners[:, 0], sides[:, 0], widths, cells, samples)
    ys, y_weights = _along_side(corners[:, 1], sides[:, 1], heights, cells, samples)
    starts = firsts[:, None, None] + ys * widths[:, None, None]  # of the rows of cells: [R, cells, 2 samples]
    rows = starts[:, :, None, :, None] + xs[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    return rows.flatten(3), weights.flatten(3)


def _along_side(begin: Tensor, length: Tensor, size: Tensor, cells: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return the two cells around each point of each part along one side, and their weights: [R, cells, 2 samples]."""
    share = (torch.arange(cells * samples, dtype=begin.dtype) + 0.5) / (cells * samples)
    points = begin[:, None] + length[:, None] * share
    size = size[:, None]
    inside = (points >= -1) & (points <= size)  # farther out, or nowhere, a point counts as 0
    points = torch.minimum(points.nan_to_num(nan=0.0).clamp(min=0), size - 1)
    low = points.floor()
    beyond = points - low
    pair = torch.stack([low, torch.minimum(low + 1, size - 1)], dim=-1).long()
    weights = torch.stack([1 - beyond, beyond], dim=-1) * inside[..., None] / samples
    return pair.unflatten(1, (cells, samples)).flatten(2), weights.unflatten(1, (cells, samples)).flatten(2)


class _WeightedRows(torch.autograd.Function):
    """Weighted sums of rows of a table [N, C]: rows int64 [P, k], weights [P, k] -> [P, C].

    `embedding_bag` alone takes six times as long to lead the gradient back: it sorts the rows first.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.length = len(table)
        return embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        part = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
        size = ctx.length, len(rows)
        where = torch.stack([rows.flatten(), part])
        shares = torch.sparse_coo_tensor(where, weights.flatten(), size, check_invariants=False)
        return shares @ gradients[0], None, None
