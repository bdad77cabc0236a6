"""The COCO API's example and made-up sets of detections, as records and detections."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlcli.data.decode import Preparation
from mlcli.data.source import Arrays
from mlcli.engine.contract import Batch
from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.evaluation.metrics import DetectionMetrics
from mlcli.tasks.detection.targets import Detections

DATA = Path(__file__).parent / "data"


def published(name: str) -> Any:
    path = DATA / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())


def records_of(
    coco: dict[str, Any], image_size: tuple[int, int] = (320, 320), fit: str = "pad", dtype: type = np.float32
) -> Records:
    """A COCO data set as records; label k is the k-th category by id. dtype: of the boxes."""
    images = coco["images"]
    label = {category: k for k, category in enumerate(sorted(c["id"] for c in coco["categories"]), start=1)}
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in images}
    for annotation in coco["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    objects = [annotation for image in images for annotation in by_image[image["id"]]]
    xywh = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    count = len(images)
    nothing = Arrays(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64), "none")
    return Records(
        images=nothing,
        preparation=Preparation(image_size, fit),
        ids=np.array([image["id"] for image in images]),
        sizes=np.array([[image["width"], image["height"]] for image in images], dtype=np.int32),
        offsets=np.cumsum([0] + [len(by_image[image["id"]]) for image in images]),
        boxes_xyxy=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(dtype),
        labels=np.array([label[a["category_id"]] for a in objects], dtype=np.int64),
        crowd=np.array([bool(a.get("iscrowd")) for a in objects], dtype=bool),
        difficult=np.zeros(len(objects), dtype=bool),
        area=np.array([a["area"] for a in objects], dtype=np.float32),
        segmentations=[a.get("segmentation") for a in objects],
    )


def feed(metrics: DetectionMetrics, results: list[dict[str, Any]], label: dict[int, int], batch_size: int = 7) -> None:
    """Give metrics some COCO results as a model would: in pixels of its input, float32, padded, batch by batch."""
    records = metrics.records
    of_image: dict[int, list[dict]] = {int(i): [] for i in records.ids}
    for result in results:
        of_image[result["image_id"]].append(result)
    rows = max(map(len, of_image.values())) + 3
    for start in range(0, len(records), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(records)))
        boxes = torch.zeros(len(indices), rows, 4, dtype=torch.float64)
        scores, labels = torch.zeros(len(indices), rows), torch.zeros(len(indices), rows, dtype=torch.int64)
        for row, index in enumerate(indices.tolist()):
            ranked = sorted(of_image[int(records.ids[index])], key=lambda result: -result["score"])
            for place, result in enumerate(ranked):
                left, top, width, height = result["bbox"]
                boxes[row, place] = torch.tensor([left, top, left + width, top + height], dtype=torch.float64)
                scores[row, place], labels[row, place] = result["score"], label[result["category_id"]]
        detections = Detections(records.to_input(boxes, indices).float(), scores, labels)
        metrics.update(detections, Batch(None, None, indices))


def made_up(seed: int, pictures: int = 60, classes: int = 5) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO data set and results with mistakes of every kind; all scores differ."""
    random = np.random.default_rng(seed)
    images = [{"id": 7 * i + 3, "width": 320, "height": 240} for i in range(pictures)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def box() -> np.ndarray:
        left, top, width, height = random.uniform([0, 0, 15, 15], [200, 130, 110, 100])
        return np.array([left, top, width, height])

    def moved(xywh: np.ndarray, amount: float) -> np.ndarray:
        return np.concatenate(
            [xywh[:2] + random.normal(0, amount, 2) * xywh[2:], xywh[2:] * np.exp(random.normal(0, amount, 2))]
        )

    def say(image: int, category: int, xywh: np.ndarray) -> None:
        low, high = np.clip([xywh[:2], xywh[:2] + xywh[2:]], 0, [320, 240])
        bbox = np.concatenate([low, high - low]).round(2).tolist()
        results.append({"image_id": image, "category_id": category, "bbox": bbox, "score": random.random()})

    for image in images:
        for _ in range(random.integers(0, 6)):
            xywh, category = box().round(2), int(random.integers(1, classes + 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": xywh.tolist(),
                    "area": float(xywh[2] * xywh[3]),
                    "iscrowd": 0,
                }
            )
            for amount in (0.05, 0.1, 0.3):
                if random.random() < 0.6:
                    wrong = int(random.integers(1, classes + 1))
                    say(image["id"], category if random.random() < 0.7 else wrong, moved(xywh, amount))
        if random.random() < 0.5:
            say(image["id"], int(random.integers(1, classes + 1)), box())
    categories = [{"id": k, "name": str(k)} for k in range(1, classes + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results
