"""Other detectors and loops in the same CPU time, for detection_minutes.py; measured by mlcli's metrics.

torchvision's rows are its own networks in the loop of its references/detection (SGD, steps at 16 and 22 of 26 parts,
a warm-up, the last weights) on the same pictures in the same size, without augmentations. The rows of Ultralytics and
LibreYOLO (pip install libreyolo) are a small network of each from scratch in its own loop, with its defaults but for
the size of the input, on the same pictures as `mlcli data convert` writes them; its best weights by its own validation.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detection_rows import Row
from detection_trials import (
    CALIBRATION,
    PICTURES,
    Costs,
    Length,
    Trial,
    cpu_seconds,
    experiment,
    milliseconds,
    repeated,
)

RATES = {"torchvision's ssdlite320_mobilenet_v3_large": 0.0125, "retinanet in torchvision's loop": 0.01}
"""Learning rates of the references for batches of 16; SSDLite's is for 192 and taken down in proportion."""
ULTRALYTICS = "ultralytics' yolo11n"
LIBREYOLO = "libreyolo's yolo9-t"
PEERS = (*RATES, ULTRALYTICS, LIBREYOLO)


def measured(task: Any, feed: Any, look: Callable[[torch.Tensor], Any]) -> Row:
    """Return map, map50 and ms of the test split by what a look at pictures, uint8 [B, 3, H, W], finds."""
    metrics = task.metrics("test")
    with torch.inference_mode():
        for batch in feed.eval_batches("test"):
            metrics.update(look(batch.inputs), batch)
    scores = metrics.compute()
    pictures = torch.cat([batch.inputs for batch in feed.eval_batches("test", samples=PICTURES)])
    return {"map": scores["map"], "map50": scores["map50"], "ms": milliseconds(look, pictures)}


class TorchvisionLoop:
    """A network without weights, torchvision's SSDLite or the RetinaNet on the compact backbone, and the step of
    torchvision's references."""

    def __init__(self, trial: Trial) -> None:
        from torchvision.models import detection
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        from mlcli.data.inspection import IMAGENET_MEAN, IMAGENET_STD
        from mlcli.engine.runtime import decide_runtime

        chosen = experiment(replace(trial, name="retinanet"), "augment=[]")
        self.seconds = trial.seconds
        self.task: Any = chosen.build()
        self.feed = self.task.feed(decide_runtime(chosen.config))
        self.batches, self.steps_per_epoch = self.feed.train_batches(0), self.feed.steps_per_epoch
        side, classes = chosen.config.data.image_size, len(self.task.info.class_names)
        torch.manual_seed(trial.seed)
        self.counts_background = "ssdlite" in trial.name
        if self.counts_background:
            build = detection.ssdlite320_mobilenet_v3_large
            self.net = build(weights=None, weights_backbone=None, num_classes=classes + 1)
        else:
            self.net = self.task.model.net
        norm = IMAGENET_MEAN, IMAGENET_STD
        self.net.transform = GeneralizedRCNNTransform(side, side, *norm, size_divisible=1, fixed_size=(side, side))
        rate = RATES[trial.name]
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
        self.rates: Any = None

    def plan(self, epochs: int) -> None:
        """Set the learning rate's course over so many epochs."""
        steps, schedules = epochs * self.steps_per_epoch, torch.optim.lr_scheduler
        warmup = max(1, min(1000, self.steps_per_epoch) - 1)
        rise = schedules.LinearLR(self.optimizer, start_factor=0.001, total_iters=warmup)
        fall = schedules.MultiStepLR(self.optimizer, milestones=[steps * 16 // 26, steps * 22 // 26], gamma=0.1)
        self.rates = schedules.ChainedScheduler([rise, fall])

    def step(self) -> None:
        """Take one step of `train_one_epoch`."""
        from mlcli.tasks.detection.targets import to_lists

        batch = next(self.batches)
        targets = to_lists(batch.targets)
        for one in targets:
            one["labels"] -= int(not self.counts_background)
        self.net.train()
        losses = sum(self.net(list(batch.inputs / 255), targets).values())
        assert math.isfinite(losses.item())
        self.optimizer.zero_grad()
        losses.backward()
        self.optimizer.step()
        if self.rates:
            self.rates.step()

    def look(self, inputs: torch.Tensor) -> Any:
        """Return what is found in pictures, uint8 [B, 3, H, W]."""
        from mlcli.tasks.detection.targets import to_detections

        found = self.net(list(inputs / 255))
        for one in found:
            one["labels"] += int(not self.counts_background)
        return to_detections(found, 100)

    def costs(self) -> Costs:
        """Return what training costs, measured on a few steps."""
        self.step()
        start_s = cpu_seconds()
        return Costs(start_s, repeated(self.step, CALIBRATION * self.seconds), 0.0, self.steps_per_epoch)

    def train(self, chosen: Length) -> Row:
        """Train and measure the last weights on the test split, by mlcli's metrics."""
        self.plan(chosen.epochs)
        for _ in range(chosen.epochs * self.steps_per_epoch):
            self.step()
        spent_s = cpu_seconds()
        self.net.eval()
        return {"cpu_s": spent_s, "best_epoch": chosen.epochs, "val": None, **measured(self.task, self.feed, self.look),
                "parameters": sum(one.numel() for one in self.net.parameters())}  # fmt: skip


class OwnLoop:
    """A package's own training on one thread, which writes into a folder that is deleted afterwards."""

    def __init__(self, trial: Trial) -> None:
        from mlcli.engine.runtime import decide_runtime
        from mlcli.tasks.detection.data.annotations.convert import convert

        chosen = experiment(replace(trial, name="yolo"), "augment=[]")
        self.seed, self.side = trial.seed, chosen.config.data.image_size
        self.task: Any = chosen.build()
        self.feed = self.task.feed(decide_runtime(chosen.config))
        self.best_epoch = 0
        self.folder = tempfile.TemporaryDirectory()
        self.pictures = Path(self.folder.name) / "pictures"
        convert(chosen.config.data, "yolo_txt", self.pictures)
        self.prepared_s = cpu_seconds()
        """Spent on what a user of the package has already."""
        self.spent_s: list[float] = []
        """CPU seconds before the first epoch and after each."""

    def asked(self, epochs: int) -> dict[str, Any]:
        """Return what both packages call by the same names."""
        return {"data": str(self.pictures / "data.yaml"), "epochs": epochs, "imgsz": self.side, "device": "cpu",
                "workers": 0, "seed": self.seed, "project": self.folder.name, "name": "run",
                "exist_ok": True}  # fmt: skip

    def note(self) -> None:
        self.spent_s.append(cpu_seconds() - self.prepared_s)

    def run(self, epochs: int) -> None:
        """Train, with a note before the first epoch and after each."""
        raise NotImplementedError

    def opened(self, path: Path) -> Any:
        """Return a model of the package with the weights of a file."""
        raise NotImplementedError

    def boxes(self, inputs: torch.Tensor) -> list[Any]:
        """Return the boxes of each of some pictures, uint8 [B, 3, H, W]; both packages name their parts alike."""
        raise NotImplementedError

    def look(self, inputs: torch.Tensor) -> Any:
        """Return what is found in pictures, uint8 [B, 3, H, W]."""
        from mlcli.tasks.detection.targets import to_detections

        found = [tuple(map(torch.as_tensor, (of.xyxy, of.conf, of.cls))) for of in self.boxes(inputs)]
        return to_detections(
            [{"boxes": boxes, "scores": scores, "labels": classes.long() + 1} for boxes, scores, classes in found], 100
        )

    def costs(self) -> Costs:
        """Return what training costs: an epoch with its evaluation is one step."""
        self.run(3)
        before, *_, second_last, last = self.spent_s
        return Costs(before, last - second_last, 0.0, 1)

    def train(self, chosen: Length) -> Row:
        """Train and measure the best weights on the test split, by mlcli's metrics."""
        self.run(chosen.epochs)
        self.model = self.opened(next(Path(self.folder.name).rglob("best.pt")))
        return {"cpu_s": self.spent_s[-1], "best_epoch": self.best_epoch, "val": None,
                **measured(self.task, self.feed, self.look),
                "parameters": sum(one.numel() for one in self.model.model.parameters())}  # fmt: skip


class UltralyticsLoop(OwnLoop):
    def run(self, epochs: int) -> None:
        from ultralytics import YOLO

        model = YOLO("yolo11n.yaml")

        def note(trainer: Any) -> None:
            if len(self.spent_s) <= epochs:  # its last evaluation of the best weights is not counted, as mlcli's is not
                self.note()
                if len(self.spent_s) > 1 and trainer.fitness == trainer.best_fitness:
                    self.best_epoch = trainer.epoch + 1

        model.add_callback("on_train_start", note)
        model.add_callback("on_fit_epoch_end", note)
        model.train(**self.asked(epochs), cache="ram", plots=False)

    def opened(self, path: Path) -> Any:
        from ultralytics import YOLO

        return YOLO(path)

    def boxes(self, inputs: torch.Tensor) -> list[Any]:
        found = self.model.predict(inputs / 255, imgsz=self.side, conf=0.001, max_det=100, device="cpu", verbose=False)
        return [one.boxes for one in found]


class LibreYoloLoop(OwnLoop):
    def run(self, epochs: int) -> None:
        from libreyolo import LibreYOLO9

        model = LibreYOLO9._from_scratch(size="t", nb_classes=len(self.task.info.class_names), device="cpu")
        model.train(**self.asked(epochs), callbacks=self)

    def on_train_start(self, event: Any) -> None:
        self.note()

    def on_train_epoch_end(self, event: Any) -> None:
        self.note()
        self.best_epoch = event.best_epoch or self.best_epoch

    def opened(self, path: Path) -> Any:
        from libreyolo import LibreYOLO9

        return LibreYOLO9(str(path), size="t", device="cpu")

    def boxes(self, inputs: torch.Tensor) -> list[Any]:
        pictures = [one.permute(1, 2, 0).numpy().copy() for one in inputs]
        asked = {"imgsz": self.side, "conf": 0.001, "iou": 0.5, "max_det": 100, "color_format": "rgb"}
        return [self.model.predict(picture, **asked).boxes for picture in pictures]


OWN_LOOPS = {ULTRALYTICS: UltralyticsLoop, LIBREYOLO: LibreYoloLoop}


def peer(trial: Trial) -> Any:
    """Return the loop of a peer, which has `costs()` and `train(length)`."""
    return OWN_LOOPS.get(trial.name, TorchvisionLoop)(trial)
