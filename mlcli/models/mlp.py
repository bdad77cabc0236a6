"""Perceptron (Rosenblatt 1958) and multilayer perceptron (Rumelhart, Hinton & Williams 1986).

A layer is `h' = f(h W + b)`. Without the function `f` a stack of layers is again a single affine map: the product of
its matrices. That is why a perceptron, and an MLP without activation, cannot answer XOR (Minsky & Papert 1969).
"""

from math import prod

from torch import nn

from mlcli.data.info import DataInfo
from mlcli.models.config import Linear, Mlp
from mlcli.models.init import initialise
from mlcli.models.layers import activation


def linear(config: Linear, info: DataInfo) -> nn.Module:
    """One layer from inputs to outputs: [B, F] or [B, C, H, W] -> [B, outputs]."""
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())  # [B, F]
    net.add_module("output", nn.Linear(prod(info.input_shape), info.num_outputs))  # [B, outputs]
    initialise(net, config.init)
    return net


def mlp(config: Mlp, info: DataInfo) -> nn.Module:
    """Hidden layers, each linear -> norm -> activation -> dropout, then a linear layer: -> [B, outputs]."""
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())  # [B, F]
    features = prod(info.input_shape)
    for number, neurons in enumerate(config.hidden, start=1):
        # A bias before a batch norm would be subtracted again with the batch's mean.
        net.add_module(f"hidden{number}", nn.Linear(features, neurons, bias=not config.batch_norm))  # [B, neurons]
        if config.batch_norm:
            net.add_module(f"norm{number}", nn.BatchNorm1d(neurons))
        net.add_module(f"activation{number}", activation(config.activation))
        if config.dropout > 0:
            net.add_module(f"dropout{number}", nn.Dropout(config.dropout))
        features = neurons
    net.add_module("output", nn.Linear(features, info.num_outputs))  # [B, outputs]
    initialise(net, config.init)
    return net
