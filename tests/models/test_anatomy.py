"""Models taken apart, against torch's own counter, what autograd really keeps, published fields and measured ones."""

import hashlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from mlcli.models.inspect.anatomy import Anatomy, take_apart


def apart(net: nn.Module, images: torch.Tensor, batch_size: int | None = None) -> Anatomy:
    size = len(images) if batch_size is None else batch_size
    return take_apart(net, lambda copy: copy(images).sum(), images, batch_size=size, pixels=True)


def kept_bytes(net: nn.Module, images: torch.Tensor) -> int:
    """What autograd keeps of a forward pass, by keeping it: each piece of memory once, weights and input apart."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(images).sum()
    known = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers(), images)}
    assert result.requires_grad
    return sum(storage.nbytes() for place, storage in kept.items() if place not in known)


def state_hash(net: nn.Module) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in net.state_dict().values())).hexdigest()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "vit_b_32"])
def test_flops_memory_and_parameters_are_those_of_torch(name):
    vit = {"image_size": 64} if name.startswith("vit") else {}
    net = models.get_model(name, weights=None, num_classes=5, **vit).train()
    images = torch.rand(2, 3, 64, 64)
    found = apart(net, images)
    with FlopCounterMode(display=False) as counter:
        net(images)
    assert found.flops * 2 == counter.get_total_flops() > 0
    assert sum(layer.flops for layer in found.layers) == found.flops
    assert sum(layer.parameters for layer in found.layers) == sum(p.numel() for p in net.parameters())
    torch.manual_seed(1)
    assert found.saved_bytes == pytest.approx(kept_bytes(net, images), rel=1e-3)


def test_flops_of_each_layer_are_those_of_torch_by_module():
    net = models.resnet18(weights=None)
    images = torch.rand(2, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        net(images)
    by_module = {name.removeprefix("ResNet."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    layers = {layer.name: layer.flops * 2 for layer in apart(net, images).layers if layer.flops}
    assert len(layers) == 21
    assert layers == {name: by_module[name] for name in layers}


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("vgg16", "features.30", 212),  # Araujo et al. 2019, table 1
        ("alexnet", "features.12", 195),  # the same
        ("resnet18", "layer4.1.conv2", 435),
        ("resnet50", "layer4.2.conv2", 427),
        ("alexnet", "classifier.1", None),
        ("resnet18", "fc", None),
    ],
)
def test_receptive_fields_as_published(name, layer, size):
    net = models.get_model(name, weights=None, num_classes=3)
    if name == "vgg16":
        net.classifier = nn.Flatten()  # half a gigabyte that is of no interest here
    found = {part.name: part.field for part in apart(net, torch.rand(2, 3, 64, 64)).layers}[layer]
    assert found is not None
    assert found.known
    assert found.whole if size is None else found.size == (size, size)


class Branches(nn.Module):
    """Two ways of different reach that are added, concatenated with a third and looked at again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.near = nn.Conv2d(2, 2, 1)
        self.far = nn.Sequential(nn.Conv2d(2, 2, (3, 5), padding=(2, 4), dilation=2), nn.AvgPool2d(3, 1, 1))
        self.side = nn.MaxPool2d(5, 1, 2)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.stem(images))
        joined = torch.cat([torch.relu(self.near(maps) + self.far(maps)), self.side(maps)], 1)
        return self.last(joined)


def test_a_field_is_the_part_of_the_image_that_gradients_reach():
    net = Branches()
    for tensor in net.parameters():
        nn.init.constant_(tensor, 0.1)  # nothing cancels, so every pixel in the field has a gradient
    found = apart(net, torch.rand(2, 1, 64, 64)).layers[-1]
    images = torch.ones(1, 1, 64, 64, requires_grad=True)
    net(images)[0, 0, 16, 16].backward()
    assert images.grad is not None
    rows, columns = images.grad[0, 0].nonzero(as_tuple=True)
    reached = (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1)
    assert found.name == "last"
    assert found.field is not None
    # Max pooling passes a gradient to one pixel of its window only; here the other way reaches further anyway.
    assert found.field.size == reached
    assert found.field.jump == (2, 2)


def test_gates_do_not_widen_a_field_and_attention_does():
    gated = apart(models.mobilenet_v3_small(weights=None), torch.rand(2, 3, 64, 64)).layers
    behind = next(layer.field for layer in gated if layer.name == "features.1.block.2.0")
    assert behind is not None
    assert not behind.whole
    assert behind.size == (7, 7)  # a 3x3 at stride 2 and one behind it: 3 + 2 * 2; the gate between sees everything
    seen = {layer.name: layer.field for layer in apart(
        models.vit_b_32(weights=None, image_size=64), torch.rand(2, 3, 64, 64)).layers}  # fmt: skip
    assert seen["conv_proj"].size == (32, 32)
    assert not seen["conv_proj"].whole
    assert seen["encoder.layers.encoder_layer_0.mlp.0"].whole


def test_what_is_said_of_a_layer():
    net = nn.Sequential(nn.Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), dilation=1, groups=4), nn.ReLU(),
                        nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(8 * 4 * 4, 3))  # fmt: skip
    conv, relu, pool, _, linear = apart(net, torch.rand(2, 4, 16, 16)).layers
    assert (conv.kernel, conv.stride, conv.padding, conv.dilation, conv.groups) == ((3, 5), (2, 2), (1, 2), (1, 1), 4)
    assert (conv.input_shape, conv.output_shape, conv.neurons) == ((4, 16, 16), (8, 8, 8), 512)
    assert conv.parameters == 8 * 1 * 15 + 8
    assert relu.parameters == 0
    assert relu.neurons == 0
    assert pool.output_shape == (8, 4, 4)
    assert pool.ceil
    assert pool.kernel == (3, 3)
    assert linear.flops == 2 * 128 * 3
    assert linear.neurons == 3


def test_memory_is_scaled_to_the_batch():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(),
                        nn.Linear(8 * 36, 3))  # fmt: skip
    images = torch.rand(8, 3, 8, 8)
    scaled = apart(net, images[:2], batch_size=8)
    assert scaled.saved_bytes == pytest.approx(kept_bytes(net, images), rel=0.01)
    assert apart(net, images).saved_bytes == pytest.approx(scaled.saved_bytes, rel=0.01)
    assert (scaled.measured, scaled.batch_size) == (2, 8)


def test_the_model_stays_as_it_was():
    net = models.squeezenet1_1(weights=None)
    net.features.insert(0, nn.BatchNorm2d(3))  # which counts the batches it has seen
    before = state_hash(net)
    apart(net, torch.rand(2, 3, 64, 64))
    assert state_hash(net) == before
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


def test_frozen_layers_learn_nothing_and_uncalled_ones_are_named():
    net = nn.ModuleDict({"one": nn.Linear(4, 3), "two": nn.Linear(3, 2), "spare": nn.Linear(2, 2)})
    net["one"].requires_grad_(False)
    rows = torch.rand(2, 4)
    found = take_apart(net, lambda net: net["two"](net["one"](rows).relu()), rows, batch_size=2, pixels=False)
    assert [(layer.parameters, layer.trainable) for layer in found.layers] == [(15, 0), (8, 8)]
    assert (found.parameters, found.trainable, found.uncalled) == (29, 14, ("spare",))
    assert found.layers[0].field is None


@pytest.mark.parametrize(
    ("between", "pairs"),
    [
        ([], 1),
        ([nn.BatchNorm1d(6)], 1),
        ([nn.Dropout(0.5)], 1),
        ([nn.Identity()], 1),
        ([nn.ReLU()], 0),
        ([nn.BatchNorm1d(6), nn.ReLU(inplace=True)], 0),
        ([nn.LayerNorm(6)], 0),
        ([nn.GELU()], 0),
    ],
    ids=["nothing", "batch norm", "dropout", "identity", "relu", "norm and relu", "layer norm", "gelu"],
)
def test_linear_layers_collapse_unless_something_nonlinear_is_between(between, pairs):
    net = nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 3))
    found = apart(net, torch.rand(3, 4)).collapses
    assert [(c.first, c.second, c.into, c.meant) for c in found] == [
        ("0", str(len(between) + 1), "one linear layer 4-3", "")
    ] * pairs


def test_convolutions_collapse_into_a_larger_one():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AvgPool2d(2), nn.Conv2d(8, 4, 5))
    (pair,) = apart(net, torch.rand(2, 3, 16, 16)).collapses
    assert (pair.first, pair.second, pair.into, pair.meant) == ("0", "3", "one 7x7 convolution 3-4", "")


def test_the_pair_really_is_the_one_convolution_it_is_said_to_be():
    first, second = nn.Conv2d(2, 5, 3, bias=False), nn.Conv2d(5, 4, 3, bias=False)
    images = torch.rand(2, 2, 12, 12)
    # One kernel is the answer to an impulse, turned around.
    impulse = torch.zeros(2, 2, 9, 9)
    impulse[[0, 1], [0, 1], 4, 4] = 1
    kernel = second(first(impulse)).transpose(0, 1).flip(2, 3)
    (pair,) = apart(nn.Sequential(first, second), images).collapses
    assert pair.into == f"one {kernel.shape[2]}x{kernel.shape[3]} convolution 2-4"
    torch.testing.assert_close(second(first(images)), nn.functional.conv2d(images, kernel))


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11_bn", "alexnet", "squeezenet1_1", "googlenet", "regnet_x_400mf", "vit_b_32"]
)
def test_no_alarm_for_designs_that_are_sound(name):
    extras = {"googlenet": {"aux_logits": False, "init_weights": False}, "vit_b_32": {"image_size": 64}}
    net = models.get_model(name, weights=None, num_classes=5, **extras.get(name, {}))
    if name == "vgg11_bn":
        net.classifier = nn.Linear(512 * 49, 5)  # three layers of half a gigabyte are of no interest here
    assert apart(net, torch.rand(2, 3, 64, 64)).collapses == ()


@pytest.mark.parametrize(
    ("name", "meant"), [("mobilenet_v2", "a linear bottleneck"), ("shufflenet_v2_x0_5", "a separable convolution")]
)
def test_linear_pairs_that_are_meant_are_told_from_mistakes(name, meant):
    found = apart(models.get_model(name, weights=None), torch.rand(2, 3, 64, 64)).collapses
    assert found
    assert {pair.meant for pair in found} == {meant}


def test_layers_that_serve_several_places_are_no_mistake():
    net = nn.ModuleDict({"one": nn.Conv2d(3, 4, 3), "two": nn.Conv2d(3, 4, 3), "head": nn.Conv2d(4, 2, 3)})
    images = torch.rand(2, 3, 9, 9)
    found = take_apart(net, lambda net: [net["head"](net[part](images)) for part in ("one", "two")], images,
                       batch_size=2, pixels=True)  # fmt: skip
    assert [pair.meant for pair in found.collapses] == ["weights shared among several places"] * 2
    head = [layer for layer in found.layers if layer.name == "head"]
    assert [layer.parameters for layer in head] == [4 * 9 * 2 + 2, 0]  # counted once
