"""Every kind of odd path, wherever a command takes one: a message that names it, and an exit code of its own.

A red case prints its number; `MLCLI_CASE=<number>` plays it alone.
"""

import os
import random
from pathlib import Path

import pytest

from tests.reliability import hunt

LONG, DEEP = "x" * 300, "y/" * 2200 + "y"
ODD = ["", " ", ".", "-", "~", "~nosuchuser/x", "$HOME/x", LONG, f"{LONG}/x", DEEP, "new/", "new//../new",
       "loop", "loop/x", "table.csv/x", "nowhere/x", "dangling", "empty", "a folder", "pipe", "/dev/null", "/dev/full",
       "/proc/self/mem", "/proc/1/x", "n\udcffame", "n\udcffame/x", "photos", "table.csv", "mlp.yaml", "runs",
       "runs/mlp/only", "runs/mlp/only/status.json", "boxes/val0.png", "tab\tnew\nline", "\x1b[31m", "\u202e", "名前",
       "COM1", "C:\\data", "file:///x", "https://example.com/x", "a=b", "a=b/c.yaml", "--", "*", "new.csv", "new.jsonl",
       "closed", "closed/x"]  # fmt: skip
"""Relative to the world, some of them there."""


@pytest.fixture(scope="module")
def odd_world(world) -> Path:
    """The world with all that the paths name."""
    folder = world
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere/at/all")
    (folder / "empty").touch()
    (folder / "a folder").mkdir()
    os.mkfifo(folder / "pipe")
    Path(os.fsdecode(os.fsencode(folder) + b"/n\xffame")).write_bytes(b"x")
    (folder / "closed").mkdir(mode=0)
    return folder


SHORT = ("train.epochs=1", "train.baselines=false")
TAKERS: list[tuple[str, ...]] = [
    ("train", "PATH"), ("train", "mlp.yaml", *SHORT, "--out", "PATH"), ("train", "mlp.yaml", *SHORT, "--name", "PATH"),
    ("train", "--resume", "PATH"), ("train", "--resume", "runs/mlp/only", "--out", "PATH"),
    ("train", "mlp.yaml", *SHORT, "data.root=PATH"), ("train", "table.yaml", *SHORT, "data.file=PATH"),
    ("train", "detection.yaml", *SHORT, "data.file=PATH"), ("train", "detection.yaml", *SHORT, "data.root=PATH"),
    ("train", "mlp.yaml", *SHORT, "finetune.weights=PATH"),
    ("train", "mlp.yaml", *SHORT, "data={name: image_csv, file: PATH}"),
    ("train", "mlp.yaml", *SHORT, "data={name: mnist, root: PATH}"),
    ("train", "detection.yaml", *SHORT, "data={name: coco, image_size: 32, train: {images: PATH, annotations: PATH}}"),
    ("train", "detection.yaml", *SHORT, "data={name: voc, image_size: 32, root: PATH}"),
    ("train", "detection.yaml", *SHORT, "data={name: yolo_txt, image_size: 32, root: PATH}"),
    ("evaluate", "PATH"), ("evaluate", "runs/mlp/only", "--out", "PATH"),
    ("evaluate", "runs/mlp/only", "data.root=PATH"), ("evaluate", "runs/table/only", "data.file=PATH"),
    ("evaluate", "runs/mlp/only", "--checkpoint", "PATH"),
    ("predict", "PATH", "boxes/val0.png"), ("predict", "runs/mlp/only", "PATH"),
    ("predict", "runs/mlp/only", "boxes/val0.png", "PATH"), ("predict", "runs/table/only", "PATH"),
    ("predict", "runs/detection/only", "PATH", "-o", "new.json"), ("predict", "runs/mlp/only", "boxes", "-o", "PATH"),
    ("predict", "runs/mlp/only", "boxes/val0.png", "-o", "PATH.csv"),
    ("predict", "runs/mlp/only", "boxes/val0.png", "--pictures", "PATH"),
    ("predict", "runs/mlp/only", "LISTED"), ("predict", "runs/detection/only", "LISTED", "-o", "new.csv"),
    ("init", "PATH", "-o", "new.yaml"), ("init", "photos", "-o", "PATH"), ("init", "table.csv", "-o", "PATH"),
    ("data", "check", "PATH"), ("data", "check", "mlp.yaml", "data.root=PATH"),
    ("data", "check", "mlp.yaml", "--out", "PATH"),
    ("data", "check", "table.yaml", "data.file=PATH"), ("data", "check", "detection.yaml", "data.file=PATH"),
    ("data", "check", "mlp.yaml", "data={name: image_csv, file: LISTED}"),
    ("data", "convert", "PATH", "new"), ("data", "convert", "detection.yaml", "PATH"),
    ("report", "PATH"), ("report", "mlp/only", "--out", "PATH"), ("runs", "--out", "PATH"),
    ("runs", "compare", "PATH", "runs/mlp/only"), ("runs", "compare", "mlp", "--out", "PATH"),
    ("inspect", "PATH"), ("inspect", "mlp.yaml", "--out", "PATH"), ("inspect", "mlp.yaml", "data.root=PATH"),
    ("lr-find", "PATH"), ("bench-io", "PATH", "--quick"),
]  # fmt: skip
"""LISTED: a CSV with the path in it."""
ALLOWED = (0, 2, 4, 5, 6)


def test_any_path_is_used_or_named(odd_world):
    faults, tried = [], hunt.cases(15, soak=2_000)
    everything = [(taker, path) for taker in TAKERS for path in ODD]
    random.Random(0).shuffle(everything)
    for case in tried:
        taker, path = everything[case % len(everything)]
        draw = random.Random(f"path {case}")
        if case >= len(everything) or draw.random() < 0.1:  # two odd ones put together
            path = f"{draw.choice(ODD)}/{path}" if draw.random() < 0.5 else f"{path}{draw.choice(ODD)}"
        with open(odd_world / "listed.csv", "w", newline="", errors="surrogateescape") as file:
            file.write(f'path,label\n"{path}",a\nboxes/val0.png,b\n')
        arguments = [part.replace("PATH", path).replace("LISTED", "listed.csv") for part in taker]
        if fault := hunt.fault_of(odd_world, *arguments, allowed=ALLOWED):
            faults.append(f"MLCLI_CASE={case}: {fault}")
    hunt.tell(faults, len(tried))


def test_a_working_folder_that_was_deleted(odd_world):
    """Commands with whole paths work, or say so at once."""
    faults = []

    def leave() -> None:
        gone = odd_world / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    yaml, run = odd_world / "mlp.yaml", odd_world / "runs/mlp/only"
    for arguments in [
        ("train", yaml, *SHORT, "--out", odd_world / "runs"), ("evaluate", run),
        ("predict", run, odd_world / "boxes/val0.png"),
        ("report", run), ("inspect", yaml), ("data", "check", yaml), ("init",), ("runs",), ("schema",),
        ("lr-find", yaml), ("init", odd_world / "photos", "-o", odd_world / "new.yaml"),
    ]:  # fmt: skip
        if fault := hunt.fault_of(odd_world, *arguments, prepare=leave, allowed=ALLOWED):
            faults.append(fault)
    hunt.tell(faults, 11)
