"""COCO's numbers against the official code, VOC's against a plain loop, and the tables against counting by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_masks
from torch.nn import functional

from mlcli.data.decode import Preparation
from mlcli.engine.contract import Batch
from mlcli.tasks.detection.evaluation import matches
from mlcli.tasks.detection.evaluation.coco_numbers import METRICS, box_results, coco_numbers, ground_truth
from mlcli.tasks.detection.evaluation.curves import average_precision, of_class, sampled
from mlcli.tasks.detection.evaluation.matches import FlatDetections
from mlcli.tasks.detection.evaluation.metrics import DetectionMetrics, original_boxes
from mlcli.tasks.detection.masks import UNCODED, run_length
from mlcli.tasks.detection.targets import Detections
from tests.tasks.detection.published import feed, made_up, published, records_of
from tests.tasks.detection.test_detection_masks import one_by_one

# cocoapi's results/val2014_fake_eval_res.txt
TO_THREE_DECIMALS = {
    "bbox": [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
    "segm": [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381],
}
NAMES = tuple("abcde")


@pytest.fixture(scope="module")
def example() -> dict:
    return published("instances_val2014_100.json.gz")


def labels_of(coco: dict) -> dict[int, int]:
    return {category: k for k, category in enumerate(sorted(c["id"] for c in coco["categories"]), start=1)}


def made_up_metrics(seed: int = 0) -> tuple[DetectionMetrics, dict, list[dict]]:
    coco, results = made_up(seed)
    metrics = DetectionMetrics(records_of(coco), NAMES)
    feed(metrics, results, {k: k for k in range(1, 6)})
    return metrics, coco, results


def with_areas(results: list[dict]) -> list[dict]:
    """Results of others, with what ours say beyond them."""
    for result in results:
        box, mask = result.get("bbox"), result.get("segmentation")
        result["area"] = box[2] * box[3] if mask is None else float(coco_masks.area(mask))
    return results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_twelve_numbers_are_the_official_ones(kind):
    expected = published("pycocotools_numbers.json")
    results = with_areas(published(f"instances_val2014_fake{kind}100_results.json.gz"))
    truth = published("instances_val2014_100.json.gz")
    found = coco_numbers(truth, results, kind)
    assert [round(found.values[name], 3) for name in METRICS] == TO_THREE_DECIMALS[kind]
    for name in METRICS:
        assert found.values[name] == pytest.approx(expected[kind][name], abs=1e-9)
    by_class = [value if value >= 0 else math.nan for value in expected[f"{kind}_ap_by_class"].values()]
    np.testing.assert_allclose(found.ap, by_class, atol=1e-9)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_records_lead_to_the_official_numbers_too(kind, example):
    """Through our own index: other category numbers, crowds, masks, corners instead of sides."""
    expected = published("pycocotools_numbers.json")[kind]
    records, label = records_of(example, dtype=np.float64), labels_of(example)
    seen = np.argsort(records.ids)
    truth = ground_truth(records, seen, len(label), masks=kind == "segm")
    results = with_areas(published(f"instances_val2014_fake{kind}100_results.json.gz"))
    for result in results:
        result["category_id"] = label[result["category_id"]]
    if kind == "bbox":
        position = {int(i): p for p, i in enumerate(records.ids)}
        boxes = np.array([result["bbox"] for result in results])
        boxes[:, 2:] += boxes[:, :2]
        columns = [np.array([result[key] for result in results]) for key in ("score", "category_id")]
        pictures = np.array([position[result["image_id"]] for result in results])
        results = box_results(FlatDetections(pictures, boxes, *columns), records)
    found = coco_numbers(truth, results, kind).values
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_batches_in_pixels_of_the_input_are_judged_in_the_originals(seed):
    """The same as COCO's code says of the untouched data set and results."""
    metrics, coco, results = made_up_metrics(seed)
    expected = coco_numbers(coco, with_areas(results), "bbox").values
    found = metrics.compute()
    assert set(expected) <= set(found)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    assert 0.1 < found["map"] < found["map50"] < 0.9


def test_the_order_of_batches_and_padding_do_not_matter():
    coco, results = made_up(0)
    metrics = [DetectionMetrics(records_of(coco), NAMES) for _ in range(2)]
    feed(metrics[0], results, {k: k for k in range(1, 6)}, batch_size=60)
    feed(metrics[1], results[::-1], {k: k for k in range(1, 6)}, batch_size=1)
    assert metrics[0].compute() == metrics[1].compute()
    assert metrics[0].details() == metrics[1].details()


def test_a_few_pairs_at_a_time_are_matched_as_all_at_once(monkeypatch):
    expected = made_up_metrics()[0].details()
    monkeypatch.setattr(matches, "PAIRS", 50)
    assert made_up_metrics()[0].details() == expected


def test_metrics_of_parts_of_a_split_are_merged():
    """As each process of several gathers its own pictures."""
    whole, coco, _ = made_up_metrics()
    parts = [DetectionMetrics(records_of(coco), NAMES) for _ in range(2)]
    for number, batch in enumerate(whole._batches):
        parts[number % 2]._batches.append(batch)
    parts[0].compute()
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()
    assert parts[0].details() == whole.details()


@pytest.mark.parametrize("seed", range(3))
def test_our_matching_gives_cocos_average_precision_with_crowds(seed):
    coco, results = made_up(seed)
    for annotation in coco["annotations"][::4]:
        annotation["iscrowd"] = 1
    metrics = DetectionMetrics(records_of(coco), NAMES)
    feed(metrics, results, {k: k for k in range(1, 6)})
    expected = coco_numbers(coco, with_areas(results), "bbox").ap50
    matched = metrics.matches
    assert matched.ignored.sum() > 10, "some are found in crowds"
    for k, row in enumerate(metrics.details()["classes"], start=1):
        assert row["ap50"] == pytest.approx(expected[k - 1], abs=1e-9)
        assert average_precision(of_class(matched, k)[1], row["support"]) == pytest.approx(expected[k - 1], abs=1e-9)


def test_the_published_example_counts_all_but_its_crowds(example):
    label = labels_of(example)
    metrics = DetectionMetrics(records_of(example), [str(k) for k in label])
    feed(metrics, published("instances_val2014_fakebbox100_results.json.gz"), label)
    rows = metrics.details()["classes"]
    assert sum(row["support"] for row in rows) == 830  # 839 annotations, 9 of them crowds
    occurring = [row["ap50"] for row in rows if row["support"]]
    assert np.mean(occurring) == pytest.approx(published("pycocotools_numbers.json")["bbox"]["map50"], abs=1e-9)


def naive_voc_ap(metrics: DetectionMetrics) -> float:
    """The devkit's VOCevaldet: detection by detection, then the area under the precision made to fall."""
    records, found, aps = metrics.records, metrics.matches.found, []
    for label in range(1, len(metrics.class_names) + 1):
        objects = [t for t in range(len(records.labels)) if records.labels[t] == label]
        used, hits = set(), []
        for d in range(len(found)):
            if found.labels[d] != label:
                continue
            best, chosen = 0.0, None
            for t in objects:
                if records.picture_of[t] != found.pictures[d]:
                    continue
                a, b = found.boxes_xyxy[d], records.boxes_xyxy[t].astype(float)
                width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                if width > 0 and height > 0:
                    common = width * height
                    iou = common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
                    if iou > best:
                        best, chosen = iou, t
            if best >= 0.5 and records.difficult[chosen]:
                continue
            hits.append(best >= 0.5 and chosen not in used)
            if best >= 0.5:
                used.add(chosen)
        count = sum(not records.difficult[t] for t in objects)
        recall = np.cumsum(hits) / count
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        aps.append(sum((recall[i] - (recall[i - 1] if i else 0)) * precision[i:].max() for i in range(len(hits))))
    return float(np.mean(aps))


def test_voc_average_precision_is_the_devkits():
    metrics, _, _ = made_up_metrics(1)
    metrics.records.difficult[::5] = True
    assert metrics.compute()["voc_ap50"] == pytest.approx(naive_voc_ap(metrics), abs=1e-12)


def by_hand() -> DetectionMetrics:
    """Two pictures of 100 x 100. First: a at (0, 0, 20, 20), b at (50, 50, 90, 90). Second: a crowd of a, and a."""
    boxes = [[0, 0, 20, 20], [50, 50, 40, 40], [0, 0, 60, 60], [70, 70, 20, 20]]
    coco = {
        "images": [{"id": 5, "width": 100, "height": 100}, {"id": 2, "width": 100, "height": 100}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"image_id": 5, "category_id": 1, "bbox": boxes[0], "area": 400},
            {"image_id": 5, "category_id": 2, "bbox": boxes[1], "area": 1600},
            {"image_id": 2, "category_id": 1, "bbox": boxes[2], "area": 3600, "iscrowd": 1},
            {"image_id": 2, "category_id": 1, "bbox": boxes[3], "area": 400},
        ],
    }
    metrics = DetectionMetrics(records_of(coco, (100, 100), "stretch"), ("a", "b"))
    results = [
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},  # right
        {"image_id": 5, "category_id": 1, "bbox": [50, 50, 40, 40], "score": 0.8},  # b taken for a
        {"image_id": 5, "category_id": 2, "bbox": [0, 60, 20, 20], "score": 0.3},  # nothing there
        {"image_id": 2, "category_id": 1, "bbox": [10, 10, 10, 10], "score": 0.7},  # in the crowd
        {"image_id": 2, "category_id": 1, "bbox": [70, 70, 20, 18], "score": 0.6},  # right
    ]
    feed(metrics, results, {1: 1, 2: 2})
    return metrics


def test_tables_counted_by_hand():
    details = by_hand().details()
    a, b = details["classes"]
    assert (a["support"], b["support"]) == (2, 1)
    assert (a["precision"], a["recall"], a["f1"]) == (pytest.approx(2 / 3), 1.0, pytest.approx(0.8))
    assert a["threshold"] == pytest.approx(0.3)  # halfway from the last one, 0.6, to nothing
    assert (b["precision"], b["recall"], b["f1"], b["ap50"]) == (0.0, 0.0, 0.0, 0.0)
    assert a["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # recall 0 to 0.5 at 1, then at 2/3
    assert details["best_threshold"] == pytest.approx(0.45)
    assert details["best_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert details["confusion_names"] == ["a", "b", "background"]
    assert details["confusion"] == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_curves_counted_by_hand():
    curves = by_hand().details()["pr_curves"]["a"]
    at = {round(threshold, 2): n for n, threshold in enumerate(curves["threshold"])}
    counts = {key: [curves[key][at[score]] for score in (0.0, 0.65, 0.85, 1.0)] for key in ("tp", "fp", "tn", "fn")}
    assert counts == {"tp": [2, 1, 1, 0], "fp": [1, 1, 0, 0], "tn": [0, 0, 0, 0], "fn": [0, 1, 1, 2]}
    assert [curves["precision"][at[score]] for score in (0.65, 1.0)] == [0.5, 1.0]
    assert [curves["recall"][at[score]] for score in (0.65, 1.0)] == [0.5, 0.0]


def test_difficult_objects_and_what_was_found_in_them_do_not_count():
    metrics = by_hand()
    metrics.records.difficult[1] = True  # b, which was taken for a: the wrong answer stays wrong, as classes differ
    metrics.records.difficult[0] = True  # a, found
    a, b = metrics.details()["classes"]
    assert (a["support"], b["support"]) == (1, 0)
    assert metrics.matches.ignored.sum() == 2
    assert a["ap50"] == pytest.approx(1 / 2)
    assert metrics.compute()["map50"] == pytest.approx(1 / 2)


def test_boxes_are_cut_to_the_picture():
    coco = {
        "images": [{"id": 1, "width": 100, "height": 50}],
        "categories": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [80, 30, 20, 20], "area": 400}],
    }
    metrics = DetectionMetrics(records_of(coco, (100, 100)), ("a",))
    feed(metrics, [{"image_id": 1, "category_id": 1, "bbox": [80, 30, 60, 40], "score": 0.5}], {1: 1})
    np.testing.assert_allclose(metrics.matches.found.boxes_xyxy, [[80, 30, 100, 50]], atol=1e-4)
    assert metrics.compute()["map"] == pytest.approx(1)


def test_a_detection_as_certain_as_the_threshold_is_kept():
    curve = sampled(np.array([0.5, 0.25]), np.array([True, False]), 2)
    kept = {
        threshold: tp + fp for threshold, tp, fp in zip(*(curve[k] for k in ("threshold", "tp", "fp")), strict=True)
    }
    assert [kept[threshold] for threshold in (0.25, 0.26, 0.5, 0.51)] == [2, 1, 1, 0]


def test_sizes_that_do_not_occur_are_no_metrics():
    metrics = by_hand()
    assert "map_large" not in metrics.directions
    assert "mar_large" not in metrics.directions
    assert {"map_small", "map_medium"} <= set(metrics.directions)
    assert set(metrics.compute()) == set(metrics.directions)
    assert set(metrics.directions.values()) == {"max"}


def nothing_found(count: int) -> Detections:
    return Detections(torch.zeros(count, 4, 4), torch.zeros(count, 4), torch.zeros(count, 4, dtype=torch.int64))


@pytest.mark.parametrize("batches", [0, 1], ids=["no picture seen", "nothing found"])
def test_nothing_found_is_zero_and_nothing_to_find_is_not_measured(batches):
    coco, _ = made_up(0)
    metrics = DetectionMetrics(records_of(coco), NAMES)
    for _ in range(batches):
        metrics.update(nothing_found(60), Batch(None, None, torch.arange(60)))
    assert all(value == 0.0 if batches else math.isnan(value) for value in metrics.compute().values())
    details = metrics.details()
    assert details["best_f1"] == (0.0 if batches else None)
    assert details["best_threshold"] == 1.0
    missed = np.array(details["confusion"])[:5, 5]
    assert missed.tolist() == [row["support"] for row in details["classes"]]
    assert (missed.sum() > 0) == bool(batches)


@pytest.mark.parametrize("left", ["nothing", "crowds"])
def test_a_split_without_objects_that_count_is_not_measured(left):
    coco, results = made_up(0)
    for thing in coco["annotations"]:
        thing["iscrowd"] = 1
    coco["annotations"] = coco["annotations"] if left == "crowds" else []
    metrics = DetectionMetrics(records_of(coco), NAMES)
    feed(metrics, results, {k: k for k in range(1, 6)})
    assert metrics.directions == {}, "nothing can be watched"
    assert {"map", "map50", "voc_ap50"} <= set(metrics.compute())
    assert all(map(math.isnan, metrics.compute().values()))
    details = metrics.details()
    assert (details["best_f1"], details["f1_curve"], details["pr_curves"], details["breakdown"]) == (None, {}, {}, [])
    assert {row[key] for row in details["classes"] for key in ("ap", "ap50", "f1")} == {None}


def test_only_pictures_that_were_seen_count():
    coco, _ = made_up(0)
    metrics = DetectionMetrics(records_of(coco), NAMES)
    metrics.update(nothing_found(10), Batch(None, None, torch.arange(10)))
    ids = [image["id"] for image in coco["images"][:10]]
    assert metrics.matches.counted.sum() == sum(a["image_id"] in ids for a in coco["annotations"])


def test_masks_are_judged_in_the_originals():
    """Objects are ellipses; answers are maps of 28 x 28 over their boxes, exact but for the resolution."""
    y, x = np.mgrid[:120, :160]
    inside = [((x - 50) / 30) ** 2 + ((y - 60) / 40) ** 2 <= 1, ((x - 110) / 20) ** 2 + ((y - 50) / 20) ** 2 <= 1]
    boxes = [[20, 20, 60, 80], [90, 30, 40, 40]]
    annotations = [
        {"image_id": 1, "category_id": k, "bbox": box, "area": float(mask.sum()), "segmentation": run_length(mask)}
        for k, (box, mask) in enumerate(zip(boxes, inside, strict=True), start=1)
    ]
    coco = {
        "images": [{"id": 1, "width": 160, "height": 120}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": annotations,
    }
    records = records_of(coco, (60, 60), "stretch")
    metrics = DetectionMetrics(records, ("a", "b"), masks=True)
    v, u = torch.meshgrid(*[(torch.arange(28) + 0.5) / 14 - 1] * 2, indexing="ij")
    disc = torch.sigmoid(20 * (1 - (u**2 + v**2)))
    corners = torch.tensor([[[20.0, 20, 80, 100], [90, 30, 130, 70]]])
    found = Detections(
        records.to_input(corners, torch.tensor([0])),
        torch.tensor([[0.9, 0.8]]),
        torch.tensor([[1, 2]]),
        torch.stack([disc, 1 - disc])[None],  # the second is what lies outside the ellipse
    )
    metrics.update(found, Batch(None, None, torch.tensor([0])))
    scores = metrics.compute()
    assert scores["map"] == pytest.approx(1)
    assert scores["segm_map50"] == pytest.approx(0.5)
    assert scores["segm_map"] == pytest.approx(0.5, abs=0.05)
    assert "segm_map" in metrics.directions
    assert "segm_voc_ap50" not in metrics.directions


def test_masks_judged_in_bulk_score_as_one_by_one():
    """Against each mask pasted, coded and measured by itself; where nothing is to be found, too."""
    metrics, coco, _ = made_up_metrics()
    generator = torch.Generator().manual_seed(0)
    for annotation in coco["annotations"][::2]:  # the others are masked by their boxes
        annotation["segmentation"] = run_length(ellipse(annotation["bbox"]))
    for annotation in coco["annotations"][::7]:
        annotation["iscrowd"] = 1
    judged, plain = DetectionMetrics(records_of(coco), NAMES, masks=True), []
    for indices, found in metrics._batches:
        soft = torch.rand(*found.labels.shape, 7, 7, generator=generator)
        maps = functional.interpolate(soft, size=(28, 28), mode="bilinear") * 0.9 + 0.2
        judged.update(replace(found, masks=maps), Batch(None, None, indices))
        boxes = original_boxes(found, indices, judged.records)
        for row, place in (found.labels > 0).nonzero().tolist():
            pixels = one_by_one(maps[row, place].half(), boxes[row, place].tolist(), 240, 320)
            picture, label = int(judged.records.ids[indices[row]]), int(found.labels[row, place])
            plain.append({"image_id": picture, "category_id": label, "score": float(found.scores[row, place]),
                          "segmentation": run_length(pixels)})  # fmt: skip
    truth = ground_truth(judged.records, judged.seen, len(NAMES), masks=True)
    reference = COCO(truth, print_function=lambda *_: None)
    evaluation = COCOeval_faster(reference, reference.loadRes(plain), "segm", print_function=lambda *_: None)
    evaluation.run()
    expected = {name: value for name, value in zip(METRICS, evaluation.stats, strict=False) if value >= 0}
    scores = judged.compute()
    assert {name: scores[f"segm_{name}"] for name in expected} == expected
    assert 0.1 < scores["segm_map50"] < 0.9
    assert {found["segmentation"] == UNCODED for found in judged._mask_results()} == {True, False}


def ellipse(bbox: list[float]) -> np.ndarray:
    """bool [240, 320]: what is within a box's ellipse."""
    left, top, width, height = bbox
    y, x = np.mgrid[:240, :320] + 0.5
    return ((x - left) / width * 2 - 1) ** 2 + ((y - top) / height * 2 - 1) ** 2 <= 1


def test_masks_of_no_pictures_are_not_measured():
    scores = DetectionMetrics(records_of(made_up(0)[0]), NAMES, masks=True).compute()
    assert math.isnan(scores["segm_map"])


def test_half_masks_do_not_reach_a_model_without_them():
    coco, _ = made_up(0)
    assert records_of(coco).preparation == Preparation((320, 320), "pad")
    metrics = DetectionMetrics(records_of(coco), NAMES)
    assert not [name for name in metrics.directions if name.startswith("segm")]


def test_of_more_than_a_hundred_objects_all_count_where_asked():
    """As of a large picture in tiles; COCO takes the hundred most certain of a class and picture."""
    boxes = [[20.0 * (n % 15), 20.0 * (n // 15), 10.0, 10.0] for n in range(150)]
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 100.0, "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    truth = {"images": [{"id": 1, "width": 300, "height": 200}], "categories": [{"id": 1, "name": "a"}]}
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "area": 100.0, "score": 1 - n / 1000}
        for n, box in enumerate(boxes)
    ]
    capped, whole = (
        coco_numbers(
            truth | {"annotations": [dict(one) for one in annotations]}, [dict(one) for one in results], "bbox", m
        )
        for m in (100, None)
    )
    assert capped.values["map"] < 0.67
    assert capped.ap[0] < 0.67
    assert whole.values["map"] == whole.ap[0] == whole.values["mar_small"] == pytest.approx(1)
    assert whole.values["mar100"] == capped.values["mar100"] == pytest.approx(100 / 150)
    assert whole.values["mar10"] == pytest.approx(10 / 150)
