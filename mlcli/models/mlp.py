"""Perceptron (Rosenblatt 1958) and multilayer perceptron (Rumelhart, Hinton & Williams 1986).

A layer is `h' = f(h W + b)`. Without the function `f` a stack of layers is again a single affine map: the product of
its matrices. That is why a perceptron, and an MLP without activation, cannot answer XOR (Minsky & Papert 1969).
"""

from collections.abc import Sequence

from torch import nn

from mlcli.models import layers


class MLP(nn.Sequential):
    """Hidden layers, each linear -> norm -> activation -> dropout, then a linear layer: [B, ...] -> [B, outputs].

    Args:
        inputs: features of a sample; images are flattened, so C * H * W.
        hidden: neurons of each hidden layer; none for a perceptron.
        activation: as `layers.activation` names them.
        init: scheme of the first weights, see `layers.initialise`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (128, 64),
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        init: str = "default",
    ) -> None:
        super().__init__()
        self.add_module("flatten", nn.Flatten())  # [B, inputs]
        features = inputs
        for number, neurons in enumerate(hidden, start=1):
            # A bias before a batch norm would be subtracted again with the batch's mean.
            self.add_module(f"hidden{number}", nn.Linear(features, neurons, bias=not batch_norm))  # [B, neurons]
            if batch_norm:
                self.add_module(f"norm{number}", nn.BatchNorm1d(neurons))
            self.add_module(f"activation{number}", layers.activation(activation))
            if dropout > 0:
                self.add_module(f"dropout{number}", nn.Dropout(dropout))
            features = neurons
        self.add_module("output", nn.Linear(features, outputs))  # [B, outputs]
        layers.initialise(self, init)
