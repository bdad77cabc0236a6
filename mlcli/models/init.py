"""First weights: Xavier (Glorot & Bengio 2010, eq. 16), Kaiming (He et al. 2015, arXiv:1502.01852, eq. 10), N(0, 0.01).

`default` leaves a model as its own constructor made it:

* linear, mlp, cnn: PyTorch's, uniform in +-1 / sqrt(fan_in) for weights and biases (LeCun et al. 1998, section 4.6);
* vgg, resnet: torchvision's, convolutions Kaiming normal by fan_out (resnet's last layer PyTorch's, vgg's linear layers
  N(0, 0.01)), biases 0;
* torchvision: whatever that architecture does there.
"""

from typing import Literal

from torch import nn

Scheme = Literal["default", "xavier", "kaiming", "normal"]

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def initialise(model: nn.Module, scheme: Scheme) -> None:
    """Draw all convolution and linear weights anew; their biases become 0, norms start as the identity.

    xavier: uniform with variance 2 / (fan_in + fan_out), which keeps activations *and* gradients alike for tanh.
    kaiming: normal with variance 2 / fan_in, which makes up for the half that ReLU sets to 0.
    normal: N(0, 0.01), as AlexNet (Krizhevsky et al. 2012, section 5); too small for deep nets without normalisation.
    """
    if scheme == "default":
        return
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _draw(layer, scheme)
        elif isinstance(layer, NORMS) and layer.weight is not None:
            nn.init.ones_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _draw(layer: nn.Linear | nn.Conv2d, scheme: Scheme) -> None:
    match scheme:
        case "xavier":
            nn.init.xavier_uniform_(layer.weight)
        case "kaiming":
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        case "normal":
            nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
