"""Pictures of first layers: the weights and maps they show, for every kind of model, and none where there are none."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mlcli.data.info import DataInfo
from mlcli.models.build import build_seeded
from mlcli.models.config import Cnn, Linear, Mlp, Resnet, TorchvisionModel, Vgg
from mlcli.models.filters import feature_maps, filters
from mlcli.show.drawing import Tile, fitted, font, picture_of, rising, sheet, shortened, signed


def info_of(shape: tuple[int, ...], classes: int = 10) -> DataInfo:
    kind = "image" if len(shape) == 3 else "features"
    names = tuple(f"c{c}" for c in range(classes))
    return DataInfo(kind, shape, names, "label", (0.5,) * shape[0], (0.25,) * shape[0])


COLOUR, GREY, ROWS = info_of((3, 32, 32)), info_of((1, 8, 8)), info_of((4,))
MODELS = {
    "linear": Linear(name="linear"),
    "mlp": Mlp(name="mlp", hidden=(16,)),
    "cnn": Cnn.model_validate({"name": "cnn", "blocks": [{"name": "conv", "channels": 6}, {"name": "global_pool"}]}),
    "vgg": Vgg(name="vgg", depth=11, width=0.05),
    "resnet": Resnet(name="resnet", depth=18, width=0.1),
    "squeezenet": TorchvisionModel(name="torchvision", arch="squeezenet1_1"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_on_images_shows_its_first_layer(name):
    model = build_seeded(MODELS[name], COLOUR, 0).eval()
    assert isinstance(filters(model, COLOUR.input_shape), Image.Image)
    has_convolution = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    maps = feature_maps(model, image)
    assert (maps is not None) == has_convolution


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_rows_of_features_have_no_pictures(name):
    model = build_seeded(MODELS[name], ROWS, 0)
    assert filters(model, (3, 32, 32)) is None
    assert feature_maps(model, torch.zeros(4)) is None


def test_a_model_that_does_not_see_the_image_first_has_no_weights_to_show():
    assert filters(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), GREY.input_shape) is None
    assert filters(nn.Identity(), GREY.input_shape) is None


def centres(page: Image.Image, side: int, columns: int, count: int, top: int) -> list[tuple[int, int, int]]:
    """Colours in the middle of the tiles of a sheet with margin 18 and gap 10."""
    pixels = page.load()
    across, line = side + 10, side + 10
    return [pixels[18 + n % columns * across + side // 2, top + n // columns * line + side // 2] for n in range(count)]


def test_weights_below_zero_are_blue_and_above_are_orange():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=False))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].weight[0] = 1.0
        model[1].weight[1] = -1.0
    page = filters(model, (1, 2, 2), [str(n) for n in range(9)])
    top = 18 + 17 + 14 + 17
    first, second, third, *_ = centres(page, 96, 5, 5, top)
    assert first[0] > 150 > first[2], "orange"
    assert second[2] > 120 > second[0], "blue"
    assert min(third) > 240, "zero is white"


def test_filters_of_colours_show_their_colours():
    model = nn.Sequential(nn.Conv2d(3, 5, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[0].weight[0, 0] = 3.0  # red only
        model[0].weight[1, 2] = -3.0  # less blue
    red, no_blue, grey, *_ = centres(filters(model, COLOUR.input_shape), 96, 5, 5, 18 + 17 + 14 + 17)
    assert red == (255, 128, 128)
    assert no_blue == (128, 128, 0)
    assert grey == (128, 128, 128)


def test_many_filters_are_cut_to_64_and_said_so():
    few = filters(nn.Sequential(nn.Conv2d(3, 64, 3)), COLOUR.input_shape)
    many = filters(nn.Sequential(nn.Conv2d(3, 200, 3)), COLOUR.input_shape)
    assert few.size == many.size


def test_feature_maps_are_what_the_convolution_answers():
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(inplace=True)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0, 2.0]).view(4, 1, 1, 1))
    image = torch.zeros(1, 8, 8)
    image[:, :, 4:] = 200.0  # dark left, bright right
    page = np.asarray(feature_maps(model, image)).astype(int)
    top, side, across = 18 + 17 + 14 + 17, 96, 106
    row = page[top + side // 2]

    def halves(tile: int) -> tuple[int, int]:
        """Green, which rises from dark violet to yellow, left and right in a tile."""
        return row[18 + tile * across + 10][1], row[18 + tile * across + side - 10][1]

    assert halves(1) == (1, 231)
    assert halves(2) == (231, 1), "before the activation, which would cut it off"
    assert halves(3) == (1, 1), "a flat map is all low"
    assert not model[0]._forward_hooks


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_tiny_pictures_keep_square_pixels_and_large_ones_fit():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    grown = np.asarray(fitted(Image.fromarray(pixels), 80))
    assert (grown[5::10, 5::10] == pixels).all()
    assert fitted(Image.new("RGB", (3000, 10)), 80).size == (80, 80)
    assert fitted(Image.new("RGB", (1, 3000)), 80).size == (80, 80)


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=lambda c: f"{c} channels")
def test_tensors_of_any_channels_become_pictures(channels):
    picture = picture_of(torch.full((channels, 3, 5), 300.0))
    assert picture.size == (5, 3)
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("count", [0, 1, 7, 24], ids=lambda c: f"{c} tiles")
def test_a_sheet_has_room_for_everything(count):
    tiles = [Tile(Image.new("RGB", (32, 32), (9, 99, 9)), ("a name that is far too long\t99%", "below"))] * count
    page = np.asarray(sheet("title", "a note that is longer than a single picture is wide, so it decides", tiles))
    green = (page == (9, 99, 9)).all(axis=2).sum()
    assert green == count * 128 * 128, "32 pixels grow four times, and nothing is written over them"
    assert (page[:, -18:] == 255).all(), "the margin is free"


def test_text_that_fits_stays_and_longer_text_is_cut():
    face = font(13)
    assert shortened("cat", face, 100) == "cat"
    cut = shortened("a very long name", face, 60)
    assert cut.endswith("…")
    assert face.getlength(cut) <= 60


def test_values_become_colours_and_flat_ones_do_not_fail():
    ends = rising(np.array([[0.0, 1.0]]))
    assert [ends.getpixel((x, 0)) for x in (0, 1)] == [(68, 1, 84), (253, 231, 37)]
    assert signed(np.zeros((2, 2))).getpixel((0, 0)) == (247, 247, 247)
    assert rising(np.ones((2, 2))).getpixel((0, 0)) == (68, 1, 84)
