"""ResNet with the ImageNet stem is torchvision's; with zero-init each block starts as the identity."""

import pytest
import torch
from torchvision import models

from mlcli.models.layers import count_parameters


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvisions_weights_load_directly_and_give_its_outputs(depth, images, build):
    theirs = models.get_model(f"resnet{depth}", weights=None, num_classes=7)
    for norm in theirs.modules():  # away from the identity, so that mixing two norms up would show
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    ours = build(images(3, 64, 64, classes=7), name="resnet", depth=depth, stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    picture = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(picture), theirs.eval()(picture), rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours.train()(picture), theirs.train()(picture), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_parameter_count_is_torchvisions(depth, images, build):
    with torch.device("meta"):
        ours = build(images(3, 224, 224, classes=1000), name="resnet", depth=depth, stem="imagenet")
        theirs = models.get_model(f"resnet{depth}", weights=None)
    assert count_parameters(ours) == count_parameters(theirs)


def test_cifar_stem_keeps_small_images_large(images, build):
    net = build(images(3, 32, 32), name="resnet", width=0.125).eval()
    maps = net.layer1(net.maxpool(net.conv1(torch.rand(1, 3, 32, 32))))
    assert maps.shape == (1, 8, 32, 32)
    assert net.layer4(net.layer3(net.layer2(maps))).shape == (1, 64, 4, 4)


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_makes_each_block_pass_its_input_on(depth, images, build):
    net = build(images(3, 32, 32), name="resnet", depth=depth, width=0.125, zero_init_residual=True)
    channels = net.layer1[1].conv1.in_channels
    maps = torch.rand(2, channels, 8, 8)  # not negative, so that the last ReLU changes nothing
    assert torch.equal(net.layer1[1](maps), maps)
    other = build(images(3, 32, 32), name="resnet", depth=depth, width=0.125, zero_init_residual=False)
    assert not torch.equal(other.layer1[1](maps), maps)


def test_zero_init_holds_under_every_scheme(images, build):
    for scheme in ("default", "xavier", "kaiming", "normal"):
        net = build(images(3, 32, 32), name="resnet", width=0.125, init=scheme)
        assert torch.equal(net.layer4[1].bn2.weight, torch.zeros(64))


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3)])
def test_tiny_images_pass(stem, height, width, images, build):
    net = build(images(1, height, width), name="resnet", width=0.05, stem=stem)
    assert net(torch.rand(3, 1, height, width)).shape == (3, 4)
