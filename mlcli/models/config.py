"""Step 1, choose a set of functions: the models a YAML can name, and fine-tuning. `build.py` makes modules of them.

The number of outputs and the shape of the inputs come from the data.
"""

from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, model_validator

from mlcli.schema import ConfigPath, Strict
from mlcli.schema.explain import closest

if TYPE_CHECKING:
    from mlcli.data.info import DataInfo

Activation = Literal["relu", "leaky_relu", "gelu", "sigmoid", "tanh", "none"]
Rate = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(gt=0, le=1_000_000)]
"""Neurons or channels of a layer."""
Extent = Annotated[int, Field(gt=0, le=10_000)]
Padding = Annotated[int, Field(ge=0, le=10_000)]
"""Pixels."""


def no_word_misspelt(words: tuple[str, ...], path: Path, info: ValidationInfo) -> Path:
    """Refuse a path that is nearly one of the words that may stand in its place, where there is no such file."""
    is_read = info.context is not None  # not the config of a run, whose file may have gone
    if is_read and not path.suffix and not path.exists() and (word := closest(path.name, words)):
        raise ValueError(f"there is no file {path.name} (did you mean '{word}'?)")
    return path


Word = Literal["none", "default"]
Weights = Word | Annotated[ConfigPath, AfterValidator(partial(no_word_misspelt, get_args(Word)))]


def _width(factor: float) -> str:
    return "" if factor == 1 else f" width {factor:g}"


class ModelBase(Strict):
    init: Literal["default", "xavier", "kaiming", "normal"] = "default"
    """First weights: the architecture's own; Xavier (Glorot & Bengio 2010); Kaiming (He et al. 2015); N(0, 0.01)."""


class Linear(ModelBase):
    """One layer, `x W + b`: the perceptron's set of functions (Rosenblatt 1958). It can only draw straight lines."""

    name: Literal["linear", "perceptron"]

    def describe(self, info: "DataInfo") -> str:
        """linear 64-10"""
        return f"{self.name} {prod(info.input_shape)}-{info.num_outputs}"


class Mlp(ModelBase):
    """Fully connected layers with an activation between them (Rumelhart, Hinton & Williams 1986)."""

    name: Literal["mlp"]
    hidden: tuple[Width, ...] = (128, 64)
    """Neurons of each hidden layer."""
    activation: Activation = "relu"
    """Function after each hidden layer; with none, all layers collapse into a single linear one."""
    dropout: Rate = 0.0
    """Probability that a hidden neuron is silenced while training (Srivastava et al. 2014)."""
    batch_norm: bool = False
    """Normalise each hidden layer over the batch (Ioffe & Szegedy 2015), before its activation."""

    def describe(self, info: "DataInfo") -> str:
        """mlp 64-128-64-10"""
        return "mlp " + "-".join(map(str, (prod(info.input_shape), *self.hidden, info.num_outputs)))


class ConvBlock(Strict):
    """Convolution, then normalisation, then activation; output side floor((H + 2p - d(k - 1) - 1) / s + 1)."""

    name: Literal["conv"]
    channels: Width
    """Output channels."""
    kernel: Extent = 3
    """Side of the kernel in pixels."""
    stride: Extent = 1
    """Step of the kernel in pixels."""
    padding: Padding | Literal["same"] = "same"
    """Pixels added on each side; same keeps height and width at stride 1."""
    dilation: Extent = 1
    """Distance between the kernel's pixels."""
    groups: Width = 1
    """Groups of channels that do not see each other."""
    batch_norm: bool = False
    """Normalise over the batch between convolution and activation."""
    activation: Activation = "relu"
    """Function after it."""


class PoolBlock(Strict):
    """Keep the largest, or the mean, of each window."""

    name: Literal["pool"]
    kind: Literal["max", "avg"] = "max"
    """Largest value or mean."""
    kernel: Extent = 2
    """Side of the window in pixels."""
    stride: Extent | None = None
    """Step of the window in pixels; null for the window's side."""
    padding: Padding = 0
    """Pixels added on each side."""


class GlobalPoolBlock(Strict):
    """The mean (GAP, Lin et al. 2014) or largest value of each channel: any image size becomes one vector."""

    name: Literal["global_pool"]
    kind: Literal["avg", "max"] = "avg"
    """Mean or largest value."""


class DropoutBlock(Strict):
    """Silence random values, or whole channels before flattening, while training."""

    name: Literal["dropout"]
    p: Rate = 0.5
    """Probability."""


class FlattenBlock(Strict):
    """Channels x height x width in one row."""

    name: Literal["flatten"]


class DenseBlock(Strict):
    """A fully connected layer, then normalisation, then activation; flattens its input if need be."""

    name: Literal["linear"]
    features: Width
    """Neurons."""
    batch_norm: bool = False
    """Normalise over the batch before the activation."""
    activation: Activation = "relu"
    """Function after it."""


Block = Annotated[
    ConvBlock | PoolBlock | GlobalPoolBlock | DropoutBlock | FlattenBlock | DenseBlock, Field(discriminator="name")
]


def _lenet5() -> tuple[Block, ...]:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling in place of tanh and trainable averages."""
    return (
        ConvBlock(name="conv", channels=6, kernel=5),
        PoolBlock(name="pool"),
        ConvBlock(name="conv", channels=16, kernel=5, padding=0),
        PoolBlock(name="pool"),
        DenseBlock(name="linear", features=120),
        DenseBlock(name="linear", features=84),
    )


class Cnn(ModelBase):
    """A convolutional network as a list of blocks; the last, linear layer to the classes is added by itself."""

    name: Literal["cnn"]
    blocks: Annotated[tuple[Block, ...], Field(min_length=1)] = Field(default_factory=_lenet5)
    """The blocks from input to output; LeNet-5 (LeCun et al. 1998) unless given."""

    def describe(self, info: "DataInfo") -> str:
        """cnn conv6 pool conv16 pool linear120 linear84 linear10"""
        sizes = [getattr(block, "channels", getattr(block, "features", "")) for block in self.blocks]
        blocks = [f"{block.name}{size}" for block, size in zip(self.blocks, sizes, strict=True)]
        return " ".join(["cnn", *blocks, f"linear{info.num_outputs}"])


class Vgg(ModelBase):
    """Plain stacks of 3x3 convolutions (Simonyan & Zisserman 2015, arXiv:1409.1556)."""

    name: Literal["vgg"]
    depth: Literal[11, 13, 16, 19] = 16
    """Layers with weights in the original, three fully connected ones included."""
    batch_norm: bool = True
    """Normalise over the batch after each convolution."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """Says what classic heads are sized for: 512 neurons for small images, 4096 for 224x224 ones."""
    head: Literal["gap", "classic"] = "gap"
    """Global average pooling and one linear layer, or the original's three fully connected layers with dropout."""
    dropout: Rate = 0.5
    """Dropout in the classic head."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Factor on all channel counts (64, 128, 256, 512, 512)."""

    def describe(self, info: "DataInfo") -> str:
        """vgg16-bn gap"""
        norm = "-bn" if self.batch_norm else ""
        return f"vgg{self.depth}{norm} {self.head}{_width(self.width)}"


class Resnet(ModelBase):
    """Residual networks (He et al. 2016, arXiv:1512.03385)."""

    name: Literal["resnet"]
    depth: Literal[18, 34, 50] = 18
    """Layers with weights."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """3x3 convolution at stride 1 for small images, or 7x7 at stride 2 and a max pool for large ones."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Factor on all channel counts (64, 128, 256, 512)."""
    zero_init_residual: bool = True
    """Start each block as the identity: its last batch norm's scale is 0 (Goyal et al. 2017, section 5.1)."""

    def describe(self, info: "DataInfo") -> str:
        """resnet18 cifar width 0.5"""
        return f"resnet{self.depth} {self.stem}{_width(self.width)}"


class Airbench(ModelBase):
    """The network of airbench94 (Jordan 2024, arXiv:2404.00498): small, and quick to learn small images. The scales of
    its normalisations stay 1, its first convolution stays as it began."""

    name: Literal["airbench"]
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Factor on the channel counts of its groups (64, 256, 256)."""
    whiten: bool = True
    """Begin with a first convolution that whitens 2x2 patches, as those of up to 5,000 training images vary; otherwise
    it is drawn like other weights."""

    def describe(self, info: "DataInfo") -> str:
        """airbench width 0.5"""
        return f"{self.name}{_width(self.width)}"


class TorchvisionModel(ModelBase):
    """Any classification model of torchvision by its name, its last layer replaced to fit the classes."""

    name: Literal["torchvision"]
    arch: str
    """The model's name in torchvision.models, such as mobilenet_v3_small."""
    weights: Weights = "none"
    """none: from scratch; default: torchvision's best ImageNet weights (needs network or its cache); or a .pth file."""

    def describe(self, info: "DataInfo") -> str:
        """mobilenet_v3_small, weights default"""
        return f"{self.arch}, weights {self.weights}"


class TimmModel(ModelBase):
    """Any image classifier of timm by its name (pip install mlcli[timm]), its last layer replaced to fit the classes.

    With weights, images are standardised as these expect, whatever data.normalize says.
    """

    name: Literal["timm"]
    arch: str
    """The model's name in timm, such as mobilenetv3_small_100; a tag behind a dot chooses among its weights."""
    weights: Weights = "none"
    """none: from scratch; default: timm's own (network or its cache needed); or a .safetensors or .pth file."""

    def describe(self, info: "DataInfo") -> str:
        """timm mobilenetv3_small_100, weights none"""
        return f"timm {self.arch}, weights {self.weights}"


Model = Annotated[
    Linear | Mlp | Cnn | Vgg | Resnet | Airbench | TorchvisionModel | TimmModel, Field(discriminator="name")
]


class FineTune(Strict):
    """Start from weights learned elsewhere and teach them the new task."""

    weights: ConfigPath | None = None
    """A run folder, .ckpt, .safetensors or .pth file; tensors that match are loaded, the rest listed."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameter names that stay as they are, such as "layer1.*"; frozen batch norms stop adapting too. What
    no file had learns all the same."""
    freeze_from: PositiveInt = 1
    """Epoch (counted from 1) from whose start these are frozen; until then they learn."""
    unfreeze_at: PositiveInt | None = None
    """Epoch (counted from 1) from whose start nothing is frozen any more; null for never."""
    trunk_lr: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of all but the head, as a share of the head's. The head is the last layer, what else is shaped by
    the classes, and what no file had."""

    @model_validator(mode="after")
    def epochs_need_patterns(self) -> Self:
        given = {"unfreeze_at": self.unfreeze_at is not None, "freeze_from": self.freeze_from > 1}
        if not self.freeze and (key := next((key for key, holds in given.items() if holds), "")):
            raise ValueError(f"{key} needs patterns in freeze")
        if self.unfreeze_at is not None and 1 < self.unfreeze_at <= self.freeze_from:
            raise ValueError(f"unfreeze_at ({self.unfreeze_at}) must be later than freeze_from ({self.freeze_from})")
        return self
