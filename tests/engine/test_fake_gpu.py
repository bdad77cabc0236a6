"""What waits for a GPU, and what mixes devices, on tensors that only say that they lie on one: fake ones of torch."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlcli.engine.runtime import to_device
from mlcli.experiment import Experiment, config_type
from tests.engine.test_no_waiting import TASKS

GPU = torch.device("cuda", 0)
SCENES = {"name": "scenes", "images": 40, "image_size": 64}
MOVES = ("photometric", "zoom_out", "iou_crop", "mosaic", "mixup")
FLIP = {"name": "horizontal_flip", "alternate": True}
YOLO = {"name": "yolo", "width": 4, "strides": [8, 16]}
CASES = {
    **{name: content for name, (_, content) in TASKS.items()},
    "weights of classes": {**TASKS["cnn with augmentation"][1], "augment": [FLIP, {"name": "affine"}],
                           "loss": {"name": "focal", "class_weights": "balanced"}},
    "yolo, all moves": {"model": YOLO, "augment": [*({"name": name} for name in MOVES), FLIP]},
    "yolo, sizes": {"model": YOLO, "multi_scale": {"least": 32, "most": 96, "every": 1}},
    "yolo, anchors": {"model": {**YOLO, "head": "anchors"}},
    "ssd": {"model": {"name": "ssd", "width": 4}},
}  # fmt: skip


class NoWaiting(TorchDispatchMode):
    """Fails at what reads a number from the GPU, has a size that depends on its values, or waits for a copy."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        places, keywords, name = {tensor.device.type for tensor in tensors}, kwargs or {}, func._schema.name
        if name == "aten::_to_copy":
            places.add(torch.device(keywords.get("device") or tensors[0].device).type)
        copies = name in ("aten::_to_copy", "aten::copy_") and len(places) == 2
        waits = copies and not (keywords.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
        if name in ("aten::index", "aten::index_put_", "aten::index_put"):
            waits = any(place is not None and place.dtype is torch.bool for place in args[1])
        waits |= "cuda" in places and name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
        assert not waits, f"{name} of {[tuple(tensor.shape) for tensor in tensors]} waits for the GPU"
        return func(*args, **keywords)


def there(value: torch.Tensor) -> torch.Tensor:
    """As it would lie on a GPU, without its values."""
    return torch.empty(value.shape, dtype=value.dtype, device=GPU)


def move_there(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in module._parameters.items():
            module._parameters[name] = value if value is None else nn.Parameter(there(value), value.requires_grad)
        for name, value in module._buffers.items():
            module._buffers[name] = value if value is None else there(value)


@pytest.mark.parametrize("name", CASES)
def test_no_batch_and_no_loss_waits_for_the_gpu(name):
    plain = {"task": "detection", "data": SCENES, **CASES[name]}
    plain["train"] = {
        "batch_size": 2,
        "accumulate": 1,
        **plain.get("train", {}),
        "device": "cpu",
        "ema": None,
        "threads": 1,
    }
    task = Experiment(config_type(plain["task"]).model_validate(plain), "").build()
    cpu = torch.device("cpu")
    feed = task.feed(type("Runtime", (), {"device": cpu}))
    batch = next(feed.train_batches(0))
    part = next(feed._order.parts(feed.steps_per_epoch, whole=feed.mixes))
    few = replace(part, indices=torch.arange(2), keys=torch.arange(2))
    feed.targets("val", few)
    (_, raw), = feed._inputs_of("train", training=True)[0].fetch([part])  # fmt: skip
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        feed._device = GPU
        if plain["task"] == "detection":
            for table in feed._tables.values():
                vars(table).update({key: there(v) for key, v in vars(table).items() if isinstance(v, torch.Tensor)})
            feed._size = lambda _: feed._sizes[-1]  # read from numbers on the CPU, of which there are none here
        else:
            feed._targets = {split: there(value) for split, value in feed._targets.items()}
        move_there(task.model)
        task.train_mode(0)
        for mode in (torch.no_grad(), NoWaiting()):  # what is copied once may wait
            with mode:
                feed.targets("val", few)
                feed.changed(there(raw), part)
                task.losses(task.model, batch.each(there))
    feed.close()


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("mps", True)])
def test_only_cuda_is_not_waited_for(device, waits):
    """mps reads pageable memory after the call has returned: https://github.com/pytorch/pytorch/issues/189690."""
    asked = []

    class Copied(torch.Tensor):
        def to(self, *_, non_blocking=False):
            asked.append(non_blocking)
            return self

    to_device(torch.zeros(1).as_subclass(Copied), torch.device(device))
    assert asked == [not waits]
