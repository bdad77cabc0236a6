"""Sheets and figures of a classifier: sizes, colours, and that no number of classes breaks them."""

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.tasks.classification.figures import MOST_CLASSES, calibration_figure, confusion_figure
from mlcli.tasks.classification.mistakes import Mistake
from mlcli.tasks.classification.sheets import batch_sheet, mistakes_sheet


def near(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(np.asarray(image).astype(int) - colour).sum(axis=2) < 12


BLUE, ORANGE = (59, 111, 182), (217, 115, 26)


def test_right_answers_are_blue_and_mistakes_are_orange():
    right = confusion_figure(np.diag([5, 7, 9]), ["ant", "bee", "cow"], "all right")
    assert near(right, BLUE).sum() > 10_000
    assert near(right, ORANGE).sum() == 0
    wrong = confusion_figure(np.array([[0, 4], [3, 0]]), ["ant", "bee"], "all wrong")
    assert near(wrong, BLUE).sum() == 0
    assert near(wrong, ORANGE).sum() > 10_000


@pytest.mark.parametrize("classes", [2, 10, 26, 100, MOST_CLASSES + 20])
def test_any_number_of_classes_fits_on_a_page(classes):
    confusion = np.eye(classes, dtype=int) * 9
    page = confusion_figure(confusion, [f"quite a long name of class {c}" for c in range(classes)], "val")
    assert 300 < page.width < 1800
    assert 300 < page.height < 1800
    diagonal = near(page, BLUE)
    across, down = diagonal.any(axis=0).sum(), diagonal.any(axis=1).sum()
    assert across == pytest.approx(down, rel=0.03), "the cells are squares"
    assert (np.asarray(page)[:, -3:] == 255).all(), "nothing runs off the page"


def test_of_very_many_classes_those_with_mistakes_are_shown():
    confusion = np.eye(300, dtype=int) * 9
    confusion[250, 260] = 90
    page = confusion_figure(confusion, [str(c) for c in range(300)], "val")
    strong = near(page, tuple(round(246 + (c - 246) * 0.95) for c in ORANGE))  # the root of 90 / 99
    assert strong.any()


def test_classes_without_samples_stay_empty():
    confusion = np.zeros((3, 3), dtype=int)
    page = confusion_figure(confusion, ["a", "b", "c"], "nothing seen")
    assert not near(page, BLUE).any()
    assert not near(page, ORANGE).any()


def test_calibration_is_drawn_of_any_bins():
    one = calibration_figure([{"samples": 3, "confidence": 0.5, "accuracy": 0.5}], 0.0, "val")
    assert near(one, BLUE).sum() > 50
    assert calibration_figure([], 0.0, "nothing seen").size == one.size


def test_a_batch_shows_its_first_24_images_after_augmentation():
    images = torch.full((30, 3, 16, 16), 37.4)
    page = batch_sheet(images, torch.zeros(30, dtype=torch.int64), ["cat"])
    assert near(page, (37, 37, 37)).sum() >= 24 * 128 * 128
    alone = batch_sheet(images[:1], torch.zeros(1, dtype=torch.int64), ["cat"])
    assert near(alone, (37, 37, 37)).sum() >= 128 * 128


def test_blended_labels_take_two_lines_and_whole_ones_one():
    images, names = torch.zeros(2, 1, 16, 16), ["cat", "dog", "cow"]
    whole = batch_sheet(images, torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), names)
    blended = batch_sheet(images, torch.tensor([[0.7, 0.3, 0], [0, 1.0, 0]]), names)
    assert blended.height > whole.height
    assert whole.height == batch_sheet(images, torch.tensor([0, 1]), names).height


def test_mistakes_come_with_answer_and_truth_below():
    images = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    mistakes = [Mistake(4, 0, 1, 0.97), Mistake(9, 1, 0, 0.5)]
    page = mistakes_sheet(images, mistakes, ["cat", "dog"], "val: mistakes", "both wrong answers")
    grey = near(page, (100, 100, 100))
    assert grey.sum() >= 2 * 120 * 120
    below = np.asarray(page)[grey.any(axis=1).nonzero()[0].max() + 1 :]
    assert (below < 120).any(), "there is text below the last picture"
