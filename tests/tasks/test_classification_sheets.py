"""Sheets of a classifier: sizes, colours and captions."""

import numpy as np
import torch
from PIL import Image

from mlcli.data.info import DataInfo
from mlcli.experiment import Experiment
from mlcli.tasks.classification.metrics import Mistake
from mlcli.tasks.classification.pictures import batch_sheet, mistakes_sheet


def near(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(np.asarray(image).astype(int) - colour).sum(axis=2) < 12


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


def test_an_answer_is_explained_beside_its_image():
    info = DataInfo("image", (3, 16, 16), ("cat", "dog"), "label", (0.5,) * 3, (0.2,) * 3)
    plain = {"task": "classification", "data": {"name": "cifar10"}, "model": {"name": "cnn", "init": "kaiming"}}
    classifier = Experiment.from_plain(plain).builder.build_predictor(
        Experiment.from_plain(plain).config, {"task": "classification", "data": info.to_plain()}
    )
    classifier.model.eval()
    pixels = np.full((1, 3, 16, 16), 90, dtype=np.uint8)
    pixels[0, :, 4:12, 4:12] = 200
    page = np.asarray(classifier.explained(pixels, {"label": "dog", "probability": 0.9}, "rex.jpg")).astype(int)
    coloured = np.abs(page.max(axis=2) - page.min(axis=2)) > 60
    columns = coloured.any(axis=0).nonzero()[0]
    grey = near(Image.fromarray(page.astype(np.uint8)), (90, 90, 90)).any(axis=0).nonzero()[0]
    assert len(columns) > 20, "the heat map is in colour"
    assert grey.min() < columns.min(), "and stands to the right of the image"
