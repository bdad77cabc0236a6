"""Blocks follow the paper's arithmetic; those that do not fit are named."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from mlcli.errors import ConfigError, ExitCode
from mlcli.models.cnn import conv_output_side
from mlcli.models.config import Cnn


@settings(max_examples=150, deadline=None, database=None)
@given(
    side=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_output_side_is_that_of_the_convolution(side, kernel, stride, padding, dilation):
    expected = conv_output_side(side, kernel, stride, padding, dilation)
    assume(side + 2 * padding > 0)
    conv = nn.Conv2d(1, 1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    if expected < 1:
        with pytest.raises(RuntimeError):
            conv(torch.zeros(1, 1, side, 1))
    else:
        assert conv(torch.zeros(1, 1, side, 1)).shape[2] == expected


def test_lenet5_has_the_papers_parameter_count(images, build):
    net = build(images(1, 28, 28, classes=10), name="cnn")
    assert sum(p.numel() for p in net.parameters()) == 61706  # 156 + 2416 + 48120 + 10164 + 850
    assert isinstance(net.blocks[0].conv, nn.Conv2d)


CONV = {"name": "conv", "channels": 8}
FITTING = {
    "plain": [CONV],
    "valid padding": [{**CONV, "padding": 0, "kernel": 5}],
    "stride 2, same": [{**CONV, "stride": 2, "kernel": 5}],
    "even kernel, same": [{**CONV, "kernel": 4}],
    "even kernel, even dilation, stride 2": [{**CONV, "kernel": 4, "dilation": 2, "stride": 2}],
    "dilated": [{**CONV, "kernel": 3, "dilation": 3}],
    "depthwise": [CONV, {**CONV, "groups": 8, "batch_norm": True}, {**CONV, "kernel": 1}],
    "overlapping pools": [CONV, {"name": "pool", "kernel": 3, "stride": 2, "padding": 1, "kind": "avg"}],
    "uneven pool": [{"name": "pool", "kernel": 3}, {"name": "pool", "kernel": 4, "stride": 1}],
    "global average": [CONV, {"name": "global_pool"}],
    "global maximum, dropout": [CONV, {"name": "dropout"}, {"name": "global_pool", "kind": "max"}, {"name": "dropout"}],
    "flatten twice": [CONV, {"name": "flatten"}, {"name": "flatten"}],
    "dense": [CONV, {"name": "linear", "features": 9, "batch_norm": True}, {"name": "linear", "features": 3}],
    "dense only": [{"name": "linear", "features": 9, "activation": "tanh"}],
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("blocks", FITTING.values(), ids=FITTING.keys())
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 22)], ids=["grey", "colour"])
def test_blocks_that_fit_run(blocks, shape, images, build):
    net = build(images(*shape, classes=6), name="cnn", blocks=blocks)
    assert net(torch.rand(2, *shape)).shape == (2, 6)


POOLS = [{"name": "pool"}] * 5
MISFITS = {
    "one pool too many": (POOLS, 4, "(pool)", "3x1x1", "fewer pool blocks"),
    "kernel larger than the image": (
        [{**CONV, "kernel": 19, "padding": 0}],
        0,
        "spans 19 pixels",
        "3x16x16",
        "smaller",
    ),
    "dilated too far": (
        [CONV, {**CONV, "kernel": 9, "dilation": 2, "padding": 0}],
        1,
        "spans 17",
        "8x16x16",
        "smaller",
    ),
    "convolution after flatten": ([{"name": "flatten"}, CONV], 1, "flattened already", "768", "before"),
    "pool after dense": ([{"name": "linear", "features": 5}, POOLS[0]], 1, "flattened already", "5", "before"),
    "global pool twice": ([{"name": "global_pool"}] * 2, 1, "flattened already", "3", "before"),
    "groups and input channels": ([{**CONV, "groups": 2}], 0, "3 input channels", "3x16x16", "divide both 3 and 8"),
    "groups and output channels": ([{**CONV, "groups": 3}], 0, "8 output channels", "3x16x16", "divide both 3 and 8"),
    "even kernel at stride 2": ([{**CONV, "kernel": 4, "stride": 2}], 0, "even kernel (4)", "3x16x16", "kernel 5"),
    "pool padded too much": ([{"name": "pool", "padding": 2}], 0, "more than half", "3x16x16", "padding 1"),
}


@pytest.mark.parametrize(("blocks", "index", "problem", "shape", "fix"), MISFITS.values(), ids=MISFITS.keys())
def test_blocks_that_do_not_fit_are_named(blocks, index, problem, shape, fix, images, build):
    with pytest.raises(ConfigError) as caught:
        build(images(3, 16, 16), name="cnn", blocks=blocks)
    error = caught.value
    assert error.where == f"model.blocks.{index}"
    assert error.what.startswith(f"block {index} (")
    assert problem in error.what
    assert f"its input {shape}:" in error.what
    assert fix in error.fix
    assert error.code == ExitCode.CONFIG


def test_dropout_takes_whole_channels_until_the_image_is_flattened(images, build):
    blocks = [{"name": "dropout"}, {"name": "flatten"}, {"name": "dropout"}]
    net = build(images(3, 8, 8), name="cnn", blocks=blocks).train()
    maps = net.blocks[0](torch.ones(4, 3, 8, 8))
    assert torch.equal(maps, maps[:, :, :1, :1].expand_as(maps))
    assert isinstance(net.blocks[2], nn.Dropout)


def test_default_blocks_are_lenet5():
    assert [block.name for block in Cnn(name="cnn").blocks] == ["conv", "pool", "conv", "pool", "linear", "linear"]
