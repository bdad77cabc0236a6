"""Images per second of training a detector, beside torchvision's reference loop; YOLO and SSD beside RetinaNet.

The reference loop is that of torchvision's references/detection (engine.py and train.py of release 0.29): one dataset
item decoded, flipped and converted at a time, a DataLoader with two workers, lists of tensors, the sum of the losses
read back each step. Both train the same network from torchvision (compact backbone) on the same JPEG files with flips,
SGD with momentum, the same batch size; mlcli by its own step and feed, in the precision and layout that it chooses, or
in the one given. The reference loop computes in fp32, as it does by itself. Alternating order, medians of the rounds.

    python benchmarks/detection_training.py [--size 128] [--batch 8] [--steps 20] [--rounds 5] [--threads 2]
        [--precision auto | fp32]
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine_line import machine_line
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import decode_image
from torchvision.transforms import v2

from mlcli.engine.meter import Meter
from mlcli.engine.runtime import decide_runtime
from mlcli.experiment import Experiment
from mlcli.machine.bench.learner import Learner
from mlcli.tasks.detection.models.torchvision_detectors import OneStage, TorchvisionBase
from mlcli.tasks.detection.task import DetectionTask

PICTURES = 160
PEERS = ("faster_rcnn", "retinanet", "fcos")
OWN = ("yolo", "ssd")
LOOP_OF_RETINANET = "retinanet, torchvision's loop"


def experiment(model: str, folder: Path, chosen: argparse.Namespace) -> Experiment:
    """On the JPEG files, read by mlcli as anybody's COCO data set."""
    text = f"""
task: detection
data: {{name: coco, root: {folder}/images, train_file: {folder}/train.json, image_size: {chosen.size}, val: 0.1}}
augment: [{{name: horizontal_flip}}]
model: {{name: {model}}}
optimizer: {{name: sgd, lr: 1e-3, momentum: 0.9}}
train: {{epochs: 1, batch_size: {chosen.batch}, threads: {chosen.threads}, device: cpu, precision: {chosen.precision}}}
"""
    path = folder / f"{model}.yaml"
    path.write_text(text)
    return Experiment.load(path)


def built(experiment: Experiment) -> DetectionTask:
    """With a network of its own: the next to be measured shall not find it in another memory format."""
    task = experiment.build()
    assert isinstance(task, DetectionTask)
    return task


def by_mlcli(experiment: Experiment, steps: int) -> float:
    """Images per second of mlcli's own steps: feed, losses, backward, optimizer, the loss kept on the device."""
    task = built(experiment)
    runtime = decide_runtime(experiment.config)
    feed = task.feed(runtime)
    learner = Learner(task, experiment.config, runtime, feed)
    batches, meter = feed.train_batches(0), Meter()
    for _ in range(2):
        learner.step(batches, meter)
    began = time.perf_counter()
    images = sum(learner.step(batches, meter) for _ in range(steps))
    seconds = time.perf_counter() - began
    feed.close()
    return images / seconds


class JpegBoxes(Dataset):
    """One picture and its target at a time, as torchvision's CocoDetection with `wrap_dataset_for_transforms_v2`.

    first_label: what the first class is called: 1, or 0 for networks without a class for the background.
    """

    def __init__(self, folder: Path, size: int, first_label: int) -> None:
        content = json.loads((folder / "train.json").read_text())
        self.images, self.folder = content["images"], folder / "images"
        self.boxes: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for one in content["annotations"]:
            self.boxes[one["image_id"]].append(one)
        self.change = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()])
        self.size, self.first_label = size, first_label

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        image = self.images[index]
        pixels = tv_tensors.Image(decode_image(str(self.folder / image["file_name"])))
        found = self.boxes[image["id"]]
        xywh = torch.tensor([one["bbox"] for one in found]).view(-1, 4)
        corners = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=pixels.shape[-2:])
        labels = torch.tensor([one["category_id"] for one in found]) - 1 + self.first_label
        return self.change(pixels, {"boxes": boxes, "labels": labels})


def by_reference(experiment: Experiment, folder: Path, chosen: argparse.Namespace) -> float:
    """Images per second of `train_one_epoch` of torchvision's references, on the same network."""
    task = built(experiment)
    assert isinstance(task.model, TorchvisionBase)
    model = task.model.net
    model.train()
    boxes = JpegBoxes(folder, chosen.size, first_label=0 if isinstance(task.model, OneStage) else 1)
    loader = DataLoader(boxes, chosen.batch, shuffle=True, num_workers=2, drop_last=True, collate_fn=_columns)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, began = 0, 0.0
    for step, (pictures, targets) in enumerate(_endless(loader)):
        if step == 2:
            began = time.perf_counter()
        losses = torch.stack(list(model(list(pictures), list(targets)).values())).sum()
        assert math.isfinite(losses.item())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        images += len(pictures) if step >= 2 else 0
        if step == chosen.steps + 1:
            break
    return images / (time.perf_counter() - began)


def _columns(samples: list[tuple[Any, Any]]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def write_pictures(folder: Path, size: int) -> None:
    """Scenes as JPEG files of the input's size with a COCO file, so that neither side has to resize."""
    from mlcli.tasks.detection.data.annotations.convert import convert
    from mlcli.tasks.detection.data.config import Scenes

    convert(Scenes(name="scenes", image_size=size, images=PICTURES), "coco", folder / "converted")
    content = json.loads(next((folder / "converted").rglob("*train*.json")).read_text())
    (folder / "images").mkdir()
    for image in content["images"]:
        source = next((folder / "converted").rglob(Path(image["file_name"]).name))
        image["file_name"] = f"{source.stem}.jpg"
        Image.open(source).convert("RGB").save(folder / "images" / image["file_name"], quality=90)
    (folder / "train.json").write_text(json.dumps(content))


def _arithmetic(chosen: argparse.Namespace) -> str:
    """ "mlcli: precision bf16, layout channels_last; torchvision's loop: fp32, channels_first" """
    with tempfile.TemporaryDirectory() as folder:
        runtime = decide_runtime(experiment(PEERS[0], Path(folder), chosen).config)
    made = ", ".join(f"{what} {value}" for what, value, _ in runtime.choices if what != "device")
    return f"mlcli: {made}; torchvision's loop: fp32, channels_first"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 128), ("batch", 8), ("steps", 20), ("rounds", 5), ("threads", 2)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--precision", choices=("auto", "fp32"), default="auto")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    print(machine_line())
    print(_arithmetic(chosen))
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, chosen.size)
        for turn in range(chosen.rounds):
            for model in (*PEERS, *OWN):
                one = experiment(model, folder, chosen)
                measures: list[tuple[str, Callable[[], float]]] = [
                    (f"{model}, mlcli", partial(by_mlcli, one, chosen.steps))
                ]
                if model in PEERS:
                    measures.append((f"{model}, torchvision's loop", partial(by_reference, one, folder, chosen)))
                for title, measure in measures if turn % 2 else reversed(measures):
                    figures.setdefault(title, []).append(measure())
    middle = {title: statistics.median(values) for title, values in figures.items()}
    for title, values in sorted(figures.items()):
        print(f"{title:<34} {middle[title]:7.1f} images/s ({min(values):.1f} - {max(values):.1f})")
    for model in PEERS:
        print(f"{model}: {middle[f'{model}, mlcli'] / middle[f'{model}, torchvision{chr(39)}s loop']:.2f}x the loop")
    for model in OWN:
        ours = middle[f"{model}, mlcli"]
        beside = f"{ours / middle[LOOP_OF_RETINANET]:.2f}x torchvision's RetinaNet in that loop"
        print(f"{model}: {beside}, {ours / middle['retinanet, mlcli']:.2f}x the same in mlcli")


if __name__ == "__main__":
    main()
