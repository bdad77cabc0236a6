"""Every model is made by plain keywords, without a config or facts about data, and answers a batch."""

import pytest
import torch
from torch import nn

from mlcli.models.build import build as build_model
from mlcli.models.cnn import CNN, conv, dropout, flatten, global_pool, linear, pool
from mlcli.models.config import Cnn
from mlcli.models.mlp import MLP
from mlcli.models.resnet import ResNet
from mlcli.models.torchvision_models import torchvision_model
from mlcli.models.vgg import VGG
from mlcli.models.weights import FineTuning

LENET5 = (conv(6, kernel=5), pool(), conv(16, kernel=5, padding=0), pool(), linear(120), linear(84))
BLOCKS = (
    conv(8, stride=2, batch_norm=True, activation="gelu"),
    conv(8, groups=8, dilation=2, kernel=4),
    pool(kind="avg", kernel=3, stride=2, padding=1),
    dropout(0.1),
    global_pool(kind="max"),
    flatten(),
    linear(9, batch_norm=True, activation="tanh"),
)
MODELS = {
    "perceptron": lambda: MLP(3 * 32 * 32, 10, hidden=()),
    "mlp": lambda: MLP(3 * 32 * 32, 10, hidden=(16, 8), activation="tanh", dropout=0.5, batch_norm=True),
    "lenet": lambda: CNN(LENET5, image=(3, 32, 32), outputs=10),
    "cnn": lambda: CNN(BLOCKS, image=(3, 32, 32), outputs=10, init="kaiming"),
    "vgg": lambda: VGG(depth=11, channels=3, outputs=10, width=0.125, dropout=0.5),
    "vgg classic": lambda: VGG(13, channels=3, outputs=10, width=0.1, head="classic", batch_norm=False, init="xavier"),
    "resnet": lambda: ResNet(depth=18, channels=3, outputs=10, width=0.125),
    "resnet imagenet": lambda: ResNet(50, channels=3, outputs=10, width=0.1, stem="imagenet", zero_init_residual=False),
    "torchvision": lambda: torchvision_model("mobilenet_v3_small", image=(3, 32, 32), outputs=10, init="normal"),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_model_is_made_by_keywords_and_answers(make):
    model = make().eval()
    assert isinstance(model, nn.Module)
    outputs = model(torch.rand(2, 3, 32, 32))
    assert outputs.shape == (2, 10)
    assert outputs.isfinite().all()


def test_blocks_by_keywords_are_those_of_the_config(images):
    torch.manual_seed(3)
    configured = build_model(Cnn(name="cnn"), images(1, 28, 28, classes=10))
    torch.manual_seed(3)
    ours = CNN(LENET5, image=(1, 28, 28), outputs=10)
    assert ours.state_dict().keys() == configured.state_dict().keys()
    assert all(torch.equal(tensor, configured.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_fine_tuning_by_keywords():
    model = ResNet(channels=3, outputs=4, width=0.0625)
    tuning = FineTuning(model, freeze=("conv1.*",), trunk_lr=0.1)
    assert tuning.frozen == {"conv1.weight"}
    assert [tuning.lr_scale(name) for name in ("fc.weight", "bn1.weight")] == [1.0, 0.1]


@pytest.mark.parametrize("wrong", [{"activation": "rleu"}, {"init": "he"}])
def test_a_word_that_names_nothing_is_an_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        MLP(4, 2, **wrong)
