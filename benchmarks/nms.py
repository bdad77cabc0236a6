"""From raw answers to boxes: mlcli's `suppress` beside NMS over everything, on growing numbers of boxes an image.

Both sides are given 8 images, boxes [8, N, 4] and scores of 20 classes [8, N, 20], crowded as an untrained detector's
answers are. "everything" is what a first program does: all pairs of box and class above the threshold into
torchvision's batched_nms, image by image. mlcli keeps the most certain candidates first. Alternating order, medians.

    python benchmarks/nms.py [--boxes 1000 8732] [--rounds 5] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from machine_line import machine_line
from torch import Tensor
from torchvision.ops import batched_nms

from mlcli.tasks.detection.nms import suppress

IMAGES, CLASSES, SIDE = 8, 20, 320
IOU, SCORE, MOST = 0.5, 0.3, 100
"""Overlap that suppresses, least score, and boxes kept an image."""


def answers(num: int) -> tuple[Tensor, Tensor]:
    """Boxes [8, N, 4] and scores [8, N, 20]."""
    generator = torch.Generator().manual_seed(num)
    corners = torch.rand(IMAGES, num, 2, generator=generator) * SIDE * 0.8
    sides = torch.rand(IMAGES, num, 2, generator=generator) * SIDE * 0.2 + 4
    scores = torch.rand(IMAGES, num, CLASSES, generator=generator) ** 4
    return torch.cat([corners, corners + sides], dim=2), scores


def everything(boxes: Tensor, scores: Tensor) -> list[Tensor]:
    """The boxes kept of each image."""
    kept = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        rows, labels = torch.nonzero(image_scores > SCORE, as_tuple=True)
        chosen = image_boxes[rows]
        which = batched_nms(chosen, image_scores[rows, labels], labels, IOU)[:MOST]
        kept.append(chosen[which])
    return kept


def timed(work: Callable[[], object]) -> float:
    """Milliseconds an image."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / IMAGES * 1e3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--boxes", type=int, nargs="*", default=[1000, 8732])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{machine_line()}; median of {chosen.rounds} alternating rounds, ms an image\n")
    print("| boxes an image | everything into batched_nms | mlcli `suppress` | times faster |\n|---|---|---|---|")
    for num in chosen.boxes:
        boxes, scores = answers(num)
        figures: dict[str, list[float]] = {"everything": [], "mlcli": []}
        for turn in range(chosen.rounds + 1):
            sides: list[tuple[str, Callable[[], object]]] = [
                ("everything", partial(everything, boxes, scores)),
                ("mlcli", partial(suppress, boxes, scores, IOU, SCORE, MOST)),
            ]
            for name, work in sides if turn % 2 else reversed(sides):
                figure = timed(work)
                if turn:
                    figures[name].append(figure)
        theirs, ours = (statistics.median(figures[name]) for name in ("everything", "mlcli"))
        print(f"| {num:,} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()
