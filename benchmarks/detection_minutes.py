"""How good every detector gets in the same CPU time: its mAP beside training minutes, time a picture and parameters.

Each trial is a process of its own on one thread. It first measures what a few steps and an evaluation cost; from that
follow the epochs, so that the learning rate reaches its end as the time is over (one epoch at least, and whole ones:
what was spent stands in the table). CPU seconds are those of the whole process from its start to the last epoch, with
imports, data and validation, so that other work on the machine hardly counts; the best epoch by validation is then
measured on the test split, which is not counted. Milliseconds are from the pixels of one picture to its boxes, the
median of pictures of the test split. One seed.

torchvision's rows are its own networks in the loop of its references/detection (SGD, steps at 16 and 22 of 26 parts,
a warm-up, the last weights) on the same pictures in the same size, without the flips, which digits do not bear.

With `--raccoon` also on the 200 photographs of configs/detection/*-raccoon.yaml, with `--weights` from those as well.

Rows are kept in a file as they come, and found there again: the same command goes on after a stop. Several may run at
the same time, each on a core and with a file of its own.

    python benchmarks/detection_minutes.py [--seconds 240 480] [--raccoon FOLDER] [--raccoon-seconds 600]
        [--weights FILE] [--only yolo ssd] [--seed 0] [--rows FILE ...] [--show] [--picture docs/detection-minutes.png]
"""

import argparse
import contextlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detection_rows import Row, draw, sections
from machine_line import machine_line

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs" / "detection"
ROWS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlcli" / "detection_minutes.jsonl"

ONE_STAGE = ("yolo", "yolo-anchors", "ssd", "retinanet", "fcos")
REGIONS = ("faster-rcnn", "mask-rcnn", "fast-rcnn", "rcnn")
RACCOON = ("yolo", "ssd", "faster-rcnn")
FROM_WEIGHTS = " on EfficientNet-Lite0 of ImageNet, frozen"
PEERS = {"torchvision's ssdlite320_mobilenet_v3_large": 0.0125, "retinanet in torchvision's loop": 0.01}
"""Learning rates of the references for batches of 16; SSDLite's is for 192 and taken down in proportion."""

EVALUATIONS, THEIR_SHARE = 10, 0.1
"""On the validation split, at most, and the share of the time that they may take."""
CALIBRATION = 0.03
"""Share of the time for which steps are measured beforehand; not counted."""
PICTURES = 50
"""Looked at one by one for the time a picture."""


@dataclass(frozen=True)
class Trial:
    """data: "scenes" or "raccoon". name: of a shipped config without that of its data, perhaps with FROM_WEIGHTS; or of
    `PEERS`. seconds: of CPU time to train in."""

    data: str
    name: str
    seconds: float
    seed: int = 0
    overrides: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.data, self.name, self.seconds, self.seed

    @property
    def is_peer(self) -> bool:
        return self.name in PEERS


@dataclass(frozen=True)
class Costs:
    """CPU seconds: until the first step, of a step, of an evaluation on the validation split; and steps an epoch."""

    start_s: float
    step_s: float
    evaluation_s: float
    steps_per_epoch: int


@dataclass(frozen=True)
class Length:
    epochs: int
    evaluate_every: int


def length(costs: Costs, seconds: float) -> Length:
    """Return as many epochs as fit into some CPU seconds with their evaluations, at least one."""
    epoch_s = costs.steps_per_epoch * costs.step_s
    most = max(1, min(EVALUATIONS, int(THEIR_SHARE * seconds / max(costs.evaluation_s, 1e-9))))
    left_s = seconds - costs.start_s
    epochs = max(1, round(left_s / (epoch_s + costs.evaluation_s)))
    if epochs > most:
        epochs = max(1, round((left_s - most * costs.evaluation_s) / epoch_s))
    return Length(epochs, math.ceil(epochs / most))


def cpu_seconds() -> float:
    """CPU seconds of this process since its start and of its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def repeated(step: Callable[[], object], seconds: float, least: int = 3) -> float:
    """Return the mean CPU seconds of a step, of as many as fit into some seconds; two more before warm up."""
    for _ in range(2):
        step()
    began, steps = cpu_seconds(), 0
    while steps < least or cpu_seconds() - began < seconds:
        step()
        steps += 1
    return (cpu_seconds() - began) / steps


def milliseconds(look: Callable[[torch.Tensor], object], pictures: torch.Tensor) -> float:
    """Return the median CPU milliseconds of a look at one of some pictures, uint8 [N, 3, H, W]."""
    taken = []
    with torch.inference_mode():
        look(pictures[:1])
        for index in range(len(pictures)):
            began = time.process_time()
            look(pictures[index : index + 1])
            taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken)


# --- mlcli -----------------------------------------------------------------------------------------------------------


def experiment(trial: Trial, *more: str) -> Any:
    """The shipped config on one thread, its data in memory, without what only TensorBoard wants to see."""
    from mlcli.experiment import Experiment

    quiet = "train.tensorboard={layers: false, pictures: false, graph: false, embeddings: false}"
    plain = ("train.device=cpu", "train.threads=1", f"train.seed={trial.seed}", "train.measure_train=0",
             "loader.workers=0", "loader.cache=ram", quiet)  # fmt: skip
    path = CONFIGS / f"{trial.name.removesuffix(FROM_WEIGHTS)}-{trial.data}.yaml"
    return Experiment.load(path, [*plain, *trial.overrides, *more])


@contextlib.contextmanager
def launched(trial: Trial, *more: str) -> Iterator[tuple[Any, Any]]:
    """A training as `mlcli train` puts it together, and its batches, in a run folder that is deleted afterwards."""
    from mlcli.engine.launch import launch
    from mlcli.machine.bench.learner import choose_batch_size

    with tempfile.TemporaryDirectory() as folder, launch(
        experiment(trial, *more), Path(folder), name="trial", resume=None, say=lambda lines: None,
        choose_batch_size=choose_batch_size,
    ) as (training, batches):  # fmt: skip
        training.run.update_status(state="running")
        yield training, batches


def costs_of(trial: Trial) -> Costs:
    """Return what training costs by mlcli, from a few steps and a batch of the validation split."""
    with launched(trial) as (training, batches):
        task, lr = training.task, training.state.schedule.lr_at(0)
        task.train_mode(0)
        next(batches)
        start_s = cpu_seconds()
        step_s = repeated(lambda: training.stepper.take(batches, 1, lr), CALIBRATION * trial.seconds)
        batch = next(training.feed.eval_batches("val"))
        task.model.eval()
        with torch.inference_mode(), training.runtime.autocast():
            batch_s = repeated(lambda: task.evaluate(task.model, batch), 0.0, least=1)
        return Costs(start_s, step_s, batch_s * task.splits["val"] / len(batch), training.feed.steps_per_epoch)


def by_mlcli(trial: Trial, chosen: Length) -> Row:
    """Train by mlcli and measure on the test split."""
    from mlcli.engine.checkpoint import load_checkpoint, model_weights
    from mlcli.engine.trainer import evaluate, fit

    epochs = f"train.epochs={chosen.epochs}", f"train.evaluate_every={chosen.evaluate_every}"
    with launched(trial, *epochs) as (training, batches):
        fit(training, batches)
        spent_s, task = cpu_seconds(), training.task
        best = load_checkpoint(training.run.checkpoint("best"))
        task.model.load_state_dict(model_weights(best))
        scores, _ = evaluate(training, "test")
        pictures = torch.cat([batch.inputs for batch in training.feed.eval_batches("test", samples=PICTURES)])
        with training.runtime.autocast():
            ms = milliseconds(lambda one: task.predict(task.model, one), pictures)
        return {
            "cpu_s": spent_s,
            "best_epoch": best["epoch"],
            "val": best["scores"]["map"],
            "map": scores["map"],
            "map50": scores["map50"],
            "ms": ms,
            "parameters": sum(one.numel() for one in task.model.parameters()),
        }


# --- torchvision's loop ----------------------------------------------------------------------------------------------


class TorchvisionLoop:
    """A network without weights, torchvision's SSDLite or the RetinaNet on the compact backbone, and the step of
    torchvision's references."""

    def __init__(self, trial: Trial) -> None:
        from torchvision.models import detection
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        from mlcli.data.inspection import IMAGENET_MEAN, IMAGENET_STD
        from mlcli.engine.runtime import decide_runtime

        chosen = experiment(replace(trial, name="retinanet"), "augment=[]")
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
        rate = PEERS[trial.name]
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


def costs_of_peer(trial: Trial) -> Costs:
    loop = TorchvisionLoop(trial)
    loop.step()
    start_s = cpu_seconds()
    return Costs(start_s, repeated(loop.step, CALIBRATION * trial.seconds), 0.0, loop.steps_per_epoch)


def by_torchvision(trial: Trial, chosen: Length) -> Row:
    """Train in torchvision's loop and measure the last weights on the test split, by mlcli's metrics."""
    loop = TorchvisionLoop(trial)
    loop.plan(chosen.epochs)
    for _ in range(chosen.epochs * loop.steps_per_epoch):
        loop.step()
    spent_s, metrics = cpu_seconds(), loop.task.metrics("test")
    loop.net.eval()
    with torch.inference_mode():
        for batch in loop.feed.eval_batches("test"):
            metrics.update(loop.look(batch.inputs), batch)
    scores = metrics.compute()
    pictures = torch.cat([batch.inputs for batch in loop.feed.eval_batches("test", samples=PICTURES)])
    return {
        "cpu_s": spent_s,
        "best_epoch": chosen.epochs,
        "val": None,
        "map": scores["map"],
        "map50": scores["map50"],
        "ms": milliseconds(loop.look, pictures),
        "parameters": sum(one.numel() for one in loop.net.parameters()),
    }


# --- trials ----------------------------------------------------------------------------------------------------------


def trials(chosen: argparse.Namespace) -> list[Trial]:
    """Return what is asked for, in the order in which it is measured: in more than the first time one stage only."""
    found = []
    for place, seconds in enumerate(chosen.seconds):
        names = [name for name in (ONE_STAGE if place else (*ONE_STAGE, *PEERS, *REGIONS)) if wanted(name, chosen)]
        found += [Trial("scenes", name, seconds, chosen.seed) for name in names]
    if chosen.raccoon:
        found += [trial for trial in of_raccoon(chosen, chosen.raccoon_seconds) if wanted(trial.name, chosen)]
    return [replace(one, overrides=(*one.overrides, *chosen.set)) for one in found]


def wanted(name: str, chosen: argparse.Namespace) -> bool:
    return not chosen.only or name in chosen.only


def of_raccoon(chosen: argparse.Namespace, seconds: float) -> list[Trial]:
    """Return the trials on photographs in the published split, from scratch and from weights."""
    folder = chosen.raccoon.resolve()
    lists = f"data.split_file={{train: {folder}/train_labels.csv, test: {folder}/test_labels.csv}}"
    place = (f"data.root={folder}", lists)
    found = [Trial("raccoon", name, seconds, chosen.seed, place) for name in RACCOON]
    if chosen.weights:
        backbone = f"model.backbone={{name: timm, arch: tf_efficientnet_lite0, weights: {chosen.weights.resolve()}}}"
        frozen = "finetune={freeze: ['neck.backbone.*']}"
        found.append(Trial("raccoon", f"yolo{FROM_WEIGHTS}", seconds, chosen.seed, (*place, backbone, frozen)))
    return found


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """Return the rows of some files; of those that measure the same, the last."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # not one that was cut
    return list({(row["data"], row["name"], row["seconds"], row["seed"]): row for row in rows}.values())


def measure(trial: Trial) -> Row:
    """Train and measure in processes of their own. Raises SystemExit with what the process said if it fails."""
    return {**trial_facts(trial), **in_own_process("train", trial, in_own_process("calibrate", trial, {}))}


def trial_facts(trial: Trial) -> Row:
    return {"data": trial.data, "name": trial.name, "seconds": trial.seconds, "seed": trial.seed,
            "machine": machine_line()}  # fmt: skip


def in_own_process(part: str, trial: Trial, given: Row) -> Row:
    content = json.dumps({"part": part, "trial": asdict(trial), "given": given})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, "--part", content], stdout=subprocess.PIPE, text=True,
                          env=environment)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{trial.name} on {trial.data}: {part} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_part(content: str) -> Row:
    """Do what a process of its own is for: find the length of a training, or train."""
    asked = json.loads(content)
    trial = Trial(**{**asked["trial"], "overrides": tuple(asked["trial"]["overrides"])})
    if asked["part"] == "calibrate":
        costs = costs_of_peer(trial) if trial.is_peer else costs_of(trial)
        return asdict(length(costs, trial.seconds))
    chosen = Length(**asked["given"])
    train = by_torchvision if trial.is_peer else by_mlcli
    return {"epochs": chosen.epochs, **train(trial, chosen)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--seconds", type=float, nargs="*", default=[240.0], help="CPU seconds of a training on the scenes"
    )
    arguments.add_argument("--only", nargs="*", help="names of detectors; all unless given")
    arguments.add_argument("--raccoon", type=Path, help="folder of the photographs, as the configs of that name say")
    arguments.add_argument("--raccoon-seconds", type=float, default=600.0)
    arguments.add_argument("--weights", type=Path, help="of timm's tf_efficientnet_lite0, for the photographs")
    arguments.add_argument("--set", nargs="*", default=[], help="changes to the configs, key=value; for trying out")
    arguments.add_argument("--seed", type=int, default=0)
    rows_found = sorted(ROWS.parent.glob(f"{ROWS.stem}*.jsonl")) or [ROWS]
    arguments.add_argument("--rows", type=Path, nargs="+", default=rows_found, help="new ones go to the first file")
    arguments.add_argument("--show", action="store_true", help="train nothing, show the rows that there are")
    arguments.add_argument("--picture", type=Path, help="file for the charts")
    arguments.add_argument("--part", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    if chosen.part:
        print(json.dumps(run_part(chosen.part)))
        return
    known = {(row["data"], row["name"], row["seconds"], row["seed"]) for row in read_rows(chosen.rows)}
    for trial in [] if chosen.show else trials(chosen):
        if trial.key in known:
            continue
        row = measure(trial)
        chosen.rows[0].parent.mkdir(parents=True, exist_ok=True)
        with chosen.rows[0].open("a") as file:
            file.write("\n" + json.dumps(row))  # in front: a stop may have cut the line before
        print(f"{trial.data} {trial.name} {trial.seconds:g}: {json.dumps(row)}", file=sys.stderr, flush=True)
    rows = read_rows(chosen.rows)
    if not rows:
        raise SystemExit(f"nothing is measured yet in {chosen.rows[0]}; run the script without --show")
    print(f"{rows[-1]['machine']}, one of them training\n")
    print("\n\n".join(sections(rows)))
    if chosen.picture:
        draw(rows, chosen.picture, PEERS)


if __name__ == "__main__":
    main()
