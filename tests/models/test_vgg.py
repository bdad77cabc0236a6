"""VGG is torchvision's where it can be, and says which pooling an image is too small for."""

import pytest
import torch
from torchvision import models

from mlcli.errors import ConfigError
from mlcli.models.layers import count_parameters

ORIGINAL = {"name": "vgg", "stem": "imagenet", "head": "classic"}


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_names_shapes_and_counts_are_torchvisions(depth, batch_norm, images, build):
    with torch.device("meta"):
        ours = build(images(3, 224, 224, classes=1000), **ORIGINAL, depth=depth, batch_norm=batch_norm)
        theirs = models.get_model(f"vgg{depth}{'_bn' if batch_norm else ''}", weights=None)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert count_parameters(ours) == count_parameters(theirs)


def test_vgg11_is_torchvisions_on_imagenet_sized_images(images, build):
    with torch.no_grad():
        theirs = models.vgg11(weights=None, init_weights=False).eval()
        with torch.device("meta"):  # the head alone has 120 million weights: take them over instead of drawing them
            ours = build(images(3, 224, 224, classes=1000), **ORIGINAL, depth=11, batch_norm=False).eval()
        ours.load_state_dict(theirs.state_dict(), assign=True)
        picture = torch.rand(1, 3, 224, 224)
        assert torch.allclose(ours(picture), theirs(picture), atol=1e-6)


@pytest.mark.parametrize("name", ["vgg13", "vgg16_bn", "vgg19_bn"])
def test_convolutions_are_torchvisions(name, images, build):
    depth, batch_norm = int(name[3:5]), name.endswith("bn")
    theirs = models.get_model(name, weights=None, num_classes=1, init_weights=False).features.eval()
    ours = build(images(3, 64, 64), name="vgg", depth=depth, batch_norm=batch_norm).eval()
    ours.features.load_state_dict(theirs.state_dict())
    picture = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = theirs(picture)
        assert torch.allclose(ours.features(picture), maps, atol=1e-6)
        assert torch.allclose(ours(picture), ours.classifier(maps.mean(dim=(2, 3))), atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "pooling", "least"),
    [(8, 8, "4th", "16x16"), (31, 40, "5th", "32x32"), (64, 1, "1st", "2x2"), (28, 28, "5th", "32x32")],
)
def test_too_small_images_are_refused_with_the_layer(height, width, pooling, least, images, build):
    with pytest.raises(ConfigError) as caught:
        build(images(1, height, width), name="vgg", depth=16)
    assert f"image {height}x{width} is too small for the {pooling} pooling of vgg16: at least {least}" in str(
        caught.value
    )
    assert "32x32" in caught.value.what


def test_the_smallest_image_passes(images, build):
    net = build(images(1, 32, 32), name="vgg", depth=11, width=0.0625)
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(("stem", "neurons", "inputs"), [("cifar", 512, 32), ("imagenet", 4096, 32 * 49)])
def test_stem_sizes_the_classic_head(stem, neurons, inputs, images, build):
    net = build(images(3, 32, 32), name="vgg", width=0.0625, head="classic", stem=stem, dropout=0.1)
    assert net.classifier[0].weight.shape == (neurons, inputs)
    assert net.classifier[2].p == 0.1


@pytest.mark.parametrize(("factor", "channels"), [(1.0, 64), (0.5, 32), (0.3, 19), (0.001, 1)])
def test_width_scales_channels_to_whole_numbers(factor, channels, images, build):
    with torch.device("meta"):
        net = build(images(3, 32, 32), name="vgg", width=factor)
    assert net.features[0].out_channels == channels
    assert net.classifier.in_features == max(1, round(512 * factor))
