"""How good every detector gets in the same CPU time: its mAP beside training minutes, time a picture and parameters.

Each trial is a process of its own on one thread. It first measures what a few steps and an evaluation cost; from that
follow the epochs, so that the learning rate reaches its end as the time is over (one epoch at least, and whole ones:
what was spent stands in the table). CPU seconds are those of the whole process from its start to the last epoch, with
imports, data and validation, so that other work on the machine hardly counts; the best epoch by validation is then
measured on the test split, which is not counted. Milliseconds are from the pixels of one picture to its boxes, the
median of pictures of the test split. One seed.

With `--raccoon` also on the 200 photographs of configs/detection/*-raccoon.yaml, with `--cells` on the 364 of
configs/detection/yolo-cells.yaml, with `--weights` from those as well. Other tools are in detection_peers.py.

Rows are kept in a file as they come, and found there again: the same command goes on after a stop. Several may run at
the same time, each on a core and with a file of its own.

    python benchmarks/detection_minutes.py [--seconds 240 480] [--raccoon FOLDER] [--cells FOLDER] [--photo-seconds 600]
        [--weights FILE] [--only yolo ssd] [--seed 0] [--rows FILE ...] [--show] [--picture docs/detection-minutes.png]
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from detection_peers import LIBREYOLO, PEERS, RATES, ULTRALYTICS, measured, peer
from detection_rows import Row, draw, sections
from detection_trials import (
    CALIBRATION,
    FROM_WEIGHTS,
    Costs,
    Length,
    Trial,
    cpu_seconds,
    experiment,
    length,
    repeated,
)
from machine_line import machine_line

ROWS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlcli" / "detection_minutes.jsonl"

ONE_STAGE = ("yolo", "yolo-anchors", "ssd", "retinanet", "fcos")
REGIONS = ("faster-rcnn", "mask-rcnn", "fast-rcnn", "rcnn")
PHOTOGRAPHS = {
    "raccoon": ("yolo", "ssd", "faster-rcnn"),
    "cells": (*ONE_STAGE, "faster-rcnn", "retinanet in torchvision's loop", ULTRALYTICS, LIBREYOLO),
}
SQUARE_CELLS = (
    "data.image_size=256",
    "augment=[{name: photometric}, {name: affine, translate: 0.1, scale: [0.8, 1.2]}, {name: horizontal_flip}]",
)
"""Half as many pixels as the shipped config has, square as the peers want them, and no mosaic: for ten minutes."""


# --- mlcli -----------------------------------------------------------------------------------------------------------


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
    from mlcli.engine.trainer import fit

    epochs = f"train.epochs={chosen.epochs}", f"train.evaluate_every={chosen.evaluate_every}"
    with launched(trial, *epochs) as (training, batches):
        fit(training, batches)
        spent_s, task = cpu_seconds(), training.task
        best = load_checkpoint(training.run.checkpoint("best"))
        task.model.load_state_dict(model_weights(best))
        task.model.eval()
        with training.runtime.autocast():
            scores = measured(task, training.feed, lambda inputs: task.predict(task.model, inputs))
        return {"cpu_s": spent_s, "best_epoch": best["epoch"], "val": best["scores"]["map"], **scores,
                "parameters": sum(one.numel() for one in task.model.parameters())}  # fmt: skip


# --- trials ----------------------------------------------------------------------------------------------------------


def trials(chosen: argparse.Namespace) -> list[Trial]:
    """Return what is asked for, in the order in which it is measured: in more than the first time one stage only."""
    found = []
    for place, seconds in enumerate(chosen.seconds):
        names = ONE_STAGE if place else (*ONE_STAGE, *RATES, *REGIONS)
        found += [Trial("scenes", name, seconds, chosen.seed) for name in names]
    for data in PHOTOGRAPHS:
        if folder := getattr(chosen, data):
            found += of_photographs(data, folder.resolve(), chosen)
    return [
        replace(one, overrides=(*one.overrides, *chosen.set))
        for one in found
        if not chosen.only or one.name in chosen.only
    ]


def of_photographs(data: str, folder: Path, chosen: argparse.Namespace) -> list[Trial]:
    """Return the trials on photographs in their published split, from scratch and from weights."""
    place = [f"data.root={folder}"]
    if data == "cells":
        place += SQUARE_CELLS
    if data == "raccoon":
        place.append(f"data.split_file={{train: {folder}/train_labels.csv, test: {folder}/test_labels.csv}}")
    asked = chosen.photo_seconds, chosen.seed
    found = [Trial(data, name, *asked, tuple(place)) for name in PHOTOGRAPHS[data]]
    if chosen.weights:
        backbone = f"model.backbone={{name: timm, arch: tf_efficientnet_lite0, weights: {chosen.weights.resolve()}}}"
        frozen = "finetune={freeze: ['neck.backbone.*']}"
        found.append(Trial(data, f"yolo{FROM_WEIGHTS}", *asked, (*place, backbone, frozen)))
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
        costs = peer(trial).costs() if trial.name in PEERS else costs_of(trial)
        return asdict(length(costs, trial.seconds))
    chosen = Length(**asked["given"])
    row = peer(trial).train(chosen) if trial.name in PEERS else by_mlcli(trial, chosen)
    return {"epochs": chosen.epochs, **row}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--seconds", type=float, nargs="*", default=[240.0], help="CPU seconds of a training on the scenes"
    )
    arguments.add_argument("--only", nargs="*", help="names of detectors; all unless given")
    arguments.add_argument("--raccoon", type=Path, help="folder of the photographs, as the configs of that name say")
    arguments.add_argument("--cells", type=Path, help="folder of BCCD, with Annotations, ImageSets and JPEGImages")
    arguments.add_argument("--photo-seconds", type=float, default=600.0, help="CPU seconds of a training on these")
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
