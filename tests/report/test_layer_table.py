"""The table of layers: what is folded, repeated and grouped, and that it fits a terminal."""

import re

import pytest
import torch
from torch import nn
from torchvision import models

from mlcli.models.inspect.anatomy import take_apart
from mlcli.report.layer_table import MOST_ROWS, arithmetic_lines, collapse_lines, layer_table, loss_lines, rows_of
from mlcli.text import screen_width


def apart(net: nn.Module, side: int = 64, batch_size: int = 32):
    images = torch.rand(2, 3, side, side)
    return take_apart(net, lambda copy: copy(images), images, batch_size=batch_size, pixels=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "densenet121", "efficientnet_b0"])
def test_every_model_fits_the_screen_and_nothing_is_lost(name, monkeypatch):
    found = apart(models.get_model(name, weights=None, num_classes=10))
    rows = rows_of(found, None)
    assert 5 < len(rows) <= MOST_ROWS
    assert sum(row.parameters * row.times for row in rows) == found.parameters
    assert sum(row.flops * row.times for row in rows) == pytest.approx(found.flops)
    lines = layer_table(found, None).splitlines()
    assert max(map(len, lines)) <= screen_width()
    monkeypatch.setenv("COLUMNS", "80")
    narrow = layer_table(found, None).splitlines()
    assert max(map(len, narrow)) <= 80
    assert "params" in narrow[0]
    (total,) = (line for line in lines if line.startswith("total"))
    assert f"{found.parameters:,}" in total


def test_norm_and_activation_stand_beside_their_convolution():
    rows = rows_of(apart(models.resnet18(weights=None)), None)
    named = {row.name: row for row in rows}
    assert named["conv1"].kind == "conv bn relu"
    assert named["conv1"].parameters == 64 * 3 * 49 + 2 * 64
    assert named["layer2.0.conv2"].kind == "conv bn"
    assert named["layer2.0.downsample.0"].field.size == (43, 43)  # its own, not that of the sum behind it
    assert named["maxpool"].kind == "maxpool"
    assert len(rows) == 23


def test_repeated_blocks_stand_once():
    found = apart(models.resnet50(weights=None))
    rows = {row.name: row for row in rows_of(found, None)}
    assert rows["layer3.1-5.conv2"].times == 5
    last = next(layer for layer in found.layers if layer.name == "layer3.5.conv2")
    assert rows["layer3.1-5.conv2"].field == last.field
    assert rows["layer3.0.conv2"].times == 1  # it halves the image


def test_blocks_that_differ_stay_apart():
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, kernel, padding=kernel // 2), nn.ReLU())
                          for kernel in (3, 3, 5, 3) for _ in range(15)))  # fmt: skip
    assert [row.times for row in rows_of(apart(net, 8), None)] == [30, 15, 15]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_depth_chooses_what_is_one_row(depth):
    found = apart(models.resnet18(weights=None))
    rows = rows_of(found, depth)
    assert len(rows) == {0: len(found.layers), 1: 10, 2: 14}[depth]
    assert sum(row.parameters for row in rows) == found.parameters
    assert depth != 1 or [row.kind for row in rows if row.name == "layer1"] == ["Sequential"]


def test_arithmetic_holds_for_every_window():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, (3, 5), dilation=2, padding="same"),
                        nn.MaxPool2d(3, 2), nn.MaxPool2d(2, 2, ceil_mode=True), nn.Conv2d(4, 2, (1, 3)))  # fmt: skip
    lines = arithmetic_lines(apart(net, 63))
    assert len(lines) == 1 + 1 + 2 + 1 + 1 + 2
    for line in lines[1:]:
        formula, exact, side = re.fullmatch(
            r"  [\d.]+: (?:floor|ceil)\((.*)\) = (?:floor|ceil)\((.*)\) = (\d+)", line
        ).groups()  # type: ignore[union-attr]
        assert eval(formula) == pytest.approx(float(exact), rel=1e-4)
        assert int(side) == (-(-float(exact) // 1) if "ceil" in line else float(exact) // 1)
    assert lines[1] == "  0: floor((63 + 2*1 - 1*(3 - 1) - 1) / 2 + 1) = floor(32) = 32"


def test_warnings_and_notes_in_words():
    plain = apart(nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(7)))).collapses
    lines = collapse_lines(plain)
    assert [subject for subject, _ in lines] == ["warning"] * 5
    assert "0 and 1" in lines[0][1]
    assert "one 5x5 convolution 3-3" in lines[0][1]
    assert "2 more pairs" in lines[-1][1]
    (note,) = collapse_lines(apart(models.mobilenet_v2(weights=None)).collapses)
    assert note[0] == "note"
    assert "a linear bottleneck" in note[1]
    assert "6 more" in note[1]


@pytest.mark.parametrize(("loss", "verdict", "warned"), [(2.4, "as expected", ""), (7.0, "high", "above"),
                                                        (0.3, "low", "below"), (2.0, None, "")])  # fmt: skip
def test_the_first_loss_in_words(loss, verdict, warned):
    lines = loss_lines({"loss": loss, "terms": {"cross_entropy": loss}, "samples": 8, "verdict": verdict,
                        "at_random": 2.303 if verdict else None, "formula": "ln C"})  # fmt: skip
    assert ("2.303" in lines[0][1]) == bool(verdict)
    assert [warned in text for subject, text in lines if subject == "warning"] == ([True] if warned else [])
