"""torchvision's classifiers by name: sized for the data, with weights from a file, or a clear answer why not."""

import socket

import pytest
import torch
from torch import nn
from torchvision import models

from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.models.layers import last_layer
from tests.reliability.soak import LONG

FAMILIES = {
    "mobilenet_v3_small": 32,
    "squeezenet1_1": 33,
    "shufflenet_v2_x0_5": 32,
    "mnasnet0_5": 32,
    "regnet_x_400mf": 32,
    "densenet121": 32,
    "googlenet": 32,
    "swin_t": 28,
    "vit_b_32": 64,
    "resnet18": 28,
}


@pytest.mark.parametrize(("arch", "side"), FAMILIES.items())
@pytest.mark.parametrize("channels", [1, 3])
def test_families_take_the_datas_shape_and_classes(arch, side, channels, images, build):
    net = build(images(channels, side, side, classes=5), name="torchvision", arch=arch).train()
    with torch.no_grad():
        outputs = net(torch.rand(2, channels, side, side))  # in training, where auxiliary classifiers would answer too
    assert outputs.shape == (2, 5)
    assert net.notes == ()


def test_inception_answers_once(images, build):
    net = build(images(1, 75, 75), name="torchvision", arch="inception_v3").train()
    assert net(torch.rand(2, 1, 75, 75)).shape == (2, 4)


def test_the_last_layer_is_found_in_every_architecture():
    """Of every family; in the long run of every size of each."""
    names = [name for name in models.list_models(module=models) if not name.startswith("regnet")]  # not on meta
    assert len(names) >= 60
    of_family = {models.get_model_builder(name).__module__: name for name in reversed(names)}
    assert len(of_family) >= 16
    for name in names if LONG else of_family.values():
        inception = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with torch.device("meta"):
            _, layer = last_layer(models.get_model(name, weights=None, num_classes=17, **inception))
        assert layer.weight.shape[0] == 17, name


@pytest.mark.parametrize(
    ("arch", "near"), [("resnet_18", "resnet18"), ("VGG16", "vgg16"), ("mobilenetv3", "mobilenet")]
)
def test_an_unknown_name_is_answered_with_close_ones(arch, near, images, build):
    with pytest.raises(ConfigError, match=f"no classification model '{arch}'") as caught:
        build(images(3, 32, 32), name="torchvision", arch=arch)
    assert near in caught.value.fix


@pytest.mark.parametrize("arch", ["fasterrcnn_resnet50_fpn", "fcn_resnet50", "quantized_resnet18", "raft_small"])
def test_models_for_other_tasks_are_unknown(arch, images, build):
    with pytest.raises(ConfigError, match="no classification model"):
        build(images(3, 32, 32), name="torchvision", arch=arch)


UNFIT = {
    "too small": ((3, 32, 32), 4, "alexnet", "none", "63x63"),
    "too small on one side": ((3, 200, 60), 4, "inception_v3", "none", "75x75"),
    "not square": ((3, 64, 32), 4, "vit_b_32", "none", "multiple of 32"),
    "no multiple of the patch": ((3, 40, 40), 4, "vit_b_32", "none", "multiple of 32"),
    "other size than the weights": ((3, 64, 64), 4, "vit_b_32", "default", "data.image_size to 224"),
    "windows": ((3, 64, 64), 4, "maxvit_t", "none", "data.image_size to 224"),
    "two channels": ((2, 64, 64), 4, "resnet18", "none", "data.channels to 3"),
    "grey for inception's weights": ((1, 96, 96), 4, "inception_v3", "default", "data.channels to 3"),
    "regression behind a ReLU": ((3, 64, 64), 0, "squeezenet1_0", "none", "regression"),
}


@pytest.mark.parametrize(("shape", "classes", "arch", "weights", "fix"), UNFIT.values(), ids=UNFIT.keys())
def test_images_that_do_not_fit_are_refused(shape, classes, arch, weights, fix, images, build):
    with pytest.raises(ConfigError, match=arch) as caught:
        build(images(*shape, classes=classes), name="torchvision", arch=arch, weights=weights)
    assert fix in str(caught.value)
    assert caught.value.fix
    assert caught.value.where == "model.arch"


def test_weights_from_a_file_load_but_for_the_head_which_starts_anew(images, build, tmp_path):
    theirs = models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    net = build(
        images(3, 64, 64), name="torchvision", arch="resnet18", weights=tmp_path / "resnet18.pth", init="normal"
    )
    assert torch.equal(net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert net.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)  # init concerns only what was not loaded
    assert any("loaded 120 of 122 tensors" in note for note in net.notes)
    assert any("fc.weight 1000x512 -> 4x512" in note for note in net.notes)


def test_a_grey_image_gets_the_answer_of_its_rgb_twin(images, build, tmp_path):
    theirs = models.resnet18(weights=None, num_classes=4).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    net = build(images(1, 32, 32), name="torchvision", arch="resnet18", weights=tmp_path / "w.pth").eval()
    grey = torch.rand(2, 1, 32, 32)
    assert torch.allclose(net(grey), theirs(grey.expand(2, 3, 32, 32)), rtol=1e-4, atol=1e-4)
    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == 1


def test_files_with_auxiliary_classifiers_and_names_of_old_load_whole(images, build, tmp_path):
    aux = models.googlenet(weights=None, num_classes=4, aux_logits=True, init_weights=False)
    torch.save(aux.state_dict(), tmp_path / "googlenet.pth")
    net = build(images(3, 32, 32), name="torchvision", arch="googlenet", weights=tmp_path / "googlenet.pth")
    assert len(net.notes) == 1
    assert net.transform_input
    dense = models.densenet121(weights=None, num_classes=4)
    old = {n.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): t for n, t in dense.state_dict().items()}
    assert old.keys() != dense.state_dict().keys()
    torch.save(old, tmp_path / "densenet.pth")
    net = build(images(3, 32, 32), name="torchvision", arch="densenet121", weights=tmp_path / "densenet.pth")
    assert len(net.notes) == 1
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in dense.state_dict().items())


def test_default_weights_without_network_say_what_to_put_where(images, build, tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        build(images(3, 64, 64), name="torchvision", arch="resnet18", weights="default")
    assert caught.value.where.startswith("https://download.pytorch.org/models/resnet18-")
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in caught.value.fix
    assert socket.getdefaulttimeout() is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_file_in_the_cache_is_not_believed(images, build, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(models.resnet18(weights=None).state_dict(), cached)  # a good file, but not that one
    with pytest.raises(CheckpointError, match="f37072fd") as caught:
        build(images(3, 64, 64), name="torchvision", arch="resnet18", weights="default")
    assert str(cached) in caught.value.fix
