"""Run folders written by hand, file by file, as runs of any kind leave them: what the page is made from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlcli.engine.run import RunFolder

BASELINES: dict[str, Any] = {
    "split": "test",
    "samples": 400,
    "samples_there": 400,
    "rows_there": 50_000,
    "notes": ["images reduced to 16x16 pixels for the baselines"],
    "entries": [
        {"name": "most frequent class", "scores": {"accuracy": 0.1}, "rows": 50_000, "seconds": 0.0, "note": ""},
        {"name": "random forest", "scores": {"accuracy": 0.62}, "rows": 4000, "seconds": 3.0, "note": "100 trees"},
    ],
}


def craft(root: Path, name: str = "made", **files: Any) -> RunFolder:
    """A run folder with these files: `status={...}` becomes status.json, `metrics=[...]` metrics.jsonl.

    Text is written as it is, under the file's own name: `**{"resolved.yaml": "..."}`.
    """
    path = root / name / "20260102-030405-abcd"
    (path / "checkpoints").mkdir(parents=True)
    given = {"status": {"state": "finished"}, **files}
    for key, value in given.items():
        if isinstance(value, str):
            (path / key).write_text(value)
        elif isinstance(value, list):
            (path / f"{key}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in value))
        else:
            (path / f"{key.replace('_', '-')}.json").write_text(json.dumps(value))
    return RunFolder(path)


def status(metric: str, direction: str, scores: dict[str, dict[str, float]], **more: Any) -> dict[str, Any]:
    """status.json of a finished run of 20 epochs whose best was the twelfth."""
    best = {"metric": metric, "split": "val", "direction": direction, "value": scores["val"][metric], "epoch": 12,
            "step": 120}  # fmt: skip
    times = {"data": 1.0, "forward": 3.0, "backward": 5.0, "optimizer": 0.5, "evaluation": 0.8, "other": 0.2}
    return {
        "state": "finished", "started": "2026-01-02T03:04:05+00:00", "task": "classification", "epochs": 20,
        "epoch": 20, "step": 200, "best": best, "scores": scores, "seconds": 10.5, "times": times, **more,
    }  # fmt: skip


def metrics(metric: str, values: Sequence[float], losses: Sequence[float] = ()) -> list[dict[str, Any]]:
    """Ten steps an epoch: two log points of training and an evaluation."""
    lines: list[dict[str, Any]] = []
    losses = losses or [2.0 / (i + 1) for i in range(len(values))]
    for epoch, (value, loss) in enumerate(zip(values, losses, strict=True), start=1):
        for step in (10 * epoch - 5, 10 * epoch):
            lines.append({"split": "train", "step": step, "epoch": epoch, "loss": loss, "lr": 0.1 / epoch,
                          "samples_per_s": 900.0 + epoch, "wait_share": 0.02, "time": 0.0})  # fmt: skip
        lines.append(
            {"split": "val", "step": 10 * epoch, "epoch": epoch, "loss": loss + 0.1, metric: value, "time": 0.0}
        )
    return lines


def layers(names: Sequence[str], looks: int = 12, notes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Looks at layers whose gradients shrink."""
    return [
        {
            "step": 10 * (i + 1),
            "layers": [
                {"name": name, "gradient_norm": 2.0 * 0.7**i / (n + 1), "update_ratio": 1e-3 * 0.9**i, "weight_l2": 5.0,
                 "activation": {"mean": 0.4, "std": 0.5, "zero_share": 0.5} if n % 2 else None}
                for n, name in enumerate(names)
            ],
            "notes": list(notes) if i == looks - 1 else [],
        }
        for i in range(looks)
    ]  # fmt: skip


def confused(names: Sequence[str], each: int = 40, seed: int = 0) -> dict[str, Any]:
    """An evaluation of a classifier that mostly mistakes neighbours for each other."""
    rng, count = np.random.default_rng(seed), len(names)
    counts = np.zeros((count, count), dtype=int)
    for row in range(count):
        answers = np.where(rng.random(each) < 0.8, row, (row + rng.integers(-2, 3, each)) % count)
        counts[row] = np.bincount(answers, minlength=count)
    recall = counts.diagonal() / each
    precision = counts.diagonal() / np.maximum(counts.sum(0), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    rows = [
        {"name": n, "precision": float(p), "recall": float(r), "f1": float(f), "support": each}
        for n, p, r, f in zip(names, precision, recall, f1, strict=True)
    ]
    falling = np.linspace(1.0, 0.3, 101)
    curve = {"threshold": np.linspace(0, 1, 101).tolist(), "recall": np.linspace(1.0, 0.0, 101).tolist(),
             "precision": falling[::-1].tolist()}  # fmt: skip
    bins = [{"samples": 5 + 9 * i, "confidence": 0.05 + 0.1 * i, "accuracy": 0.1 * i} for i in range(10)]
    return {"split": "test", "samples": each * count, "checkpoint": "best.ckpt", "classes": rows,
            "confusion": counts.tolist(), "pr_curves": dict.fromkeys(names, curve), "calibration": bins,
            "mistakes": [{"index": 3, "name": "photos/7.jpg", "truth": names[0], "answer": names[1], "probability": 1}],
            "metrics": {"accuracy": float(recall.mean()), "loss": 0.6}}  # fmt: skip


def classifier(root: Path, names: Sequence[str], name: str = "classifier", **more: Any) -> RunFolder:
    """A finished classification with everything a run can leave."""
    scores = {split: {"loss": 0.5, "accuracy": value} for split, value in
              {"train": 0.93, "val": 0.80, "test": 0.79}.items()}  # fmt: skip
    curve = [0.8 - 0.5 * 0.7**i for i in range(20)]
    files: dict[str, Any] = {
        "status": status("accuracy", "max", scores),
        "metrics": metrics("accuracy", curve),
        "resolved.yaml": "# by hand\ntask: classification\nmodel: {name: mlp, hidden: [64], dropout: 0.0}\n"
        "data: {name: digits, val: 0.15}\naugment: []\noptimizer: {name: sgd, lr: 1e-1, weight_decay: 0.0}\n"
        "train: {epochs: 20, seed: 0, early_stopping: null}\n",
        "environment": {"mlcli": "0.1.0", "threads": 1, "choices": {"device": "cpu (1 thread): no GPU"},
                        "arguments": ["train", "made.yaml"], "overrides": []},
        "summary": {"describe": [["data", "made by hand"], ["", "a note"], ["model", "mlp"]], "parameters": 4810,
                    "splits": {"train": 1000, "val": 400, "test": 400},
                    "facts": {"data": {"kind": "image", "target": "label"}}},
        "evaluation_test": confused(names),
        "baselines": BASELINES,
        "layers": layers(["net.conv1", "net.block.0.conv2", "net.output"], notes=["vanishing gradients in net.conv1"]),
        **more,
    }  # fmt: skip
    run = craft(root, name, **files)
    (run.path / "pictures").mkdir()
    for title, size in (("mistakes", (900, 400)), ("filters", (300, 200))):
        Image.linear_gradient("L").resize(size).save(run.path / "pictures" / f"test-{title}.png")
    return run


def detector(root: Path) -> RunFolder:
    """A finished detection of three classes."""
    thresholds = np.linspace(0, 1, 101)
    recall, precision = 0.9 * (1 - thresholds**2), np.clip(0.4 + 0.6 * thresholds, 0, 1)
    curve = {"threshold": thresholds.tolist(), "recall": recall.tolist(), "precision": precision.tolist(),
             "f1": (2 * recall * precision / (recall + precision + 1e-9)).tolist()}  # fmt: skip
    names = ["circle", "square", "triangle"]
    rows = [{"name": n, "ap": 0.4 + 0.1 * i, "ap50": 0.6 + 0.1 * i, "precision": 0.8, "recall": 0.7, "f1": 0.75,
             "threshold": 0.4, "support": 50} for i, n in enumerate(names)]  # fmt: skip
    kinds = ("localisation", "class", "duplicate", "background", "both", "missed")
    found = {
        "split": "val", "samples": 60, "classes": rows, "confusion_names": [*names, "background"],
        "confusion": [[40, 2, 1, 7], [3, 35, 0, 12], [0, 0, 45, 5], [6, 4, 2, 0]],
        "pr_curves": dict.fromkeys(names, curve), "f1_curve": curve, "best_threshold": 0.41, "best_f1": 0.7,
        "breakdown": [{"name": kind, "count": 9 * i, "delta_map50": 0.02 * i} for i, kind in enumerate(kinds)],
        "metrics": {"map": 0.5, "map50": 0.7},
    }  # fmt: skip
    scores = {"train": {"map": 0.6, "map50": 0.8}, "val": {"map": 0.5, "map50": 0.7}}
    return craft(root, "detector", status=status("map", "max", scores, task="detection"), evaluation_val=found,
                 metrics=metrics("map", [0.5 - 0.5 * 0.8**i for i in range(20)]))  # fmt: skip


def regressor(root: Path) -> RunFolder:
    """A finished regression."""
    rng = np.random.default_rng(0)
    truth = rng.normal(150, 60, 200)
    answer = truth * 0.7 + 45 + rng.normal(0, 20, 200)
    residuals = {"count": 200, "index": list(range(200)), "truth": truth.tolist(), "answer": answer.tolist(),
                 "quantiles": {"0 %": -80.0, "50 %": 0.1, "100 %": 77.0}}  # fmt: skip
    scores = {split: {"loss": 0.5, "rmse": value, "r2": 0.5} for split, value in
              {"train": 50.0, "val": 56.0, "test": 55.0}.items()}  # fmt: skip
    return craft(
        root,
        "regressor",
        status=status("rmse", "min", scores, task="regression"),
        metrics=metrics("rmse", [56 + 30 * 0.6**i for i in range(20)]),
        evaluation_test={"split": "test", "samples": 200, "residuals": residuals, "metrics": scores["test"]},
        summary={"facts": {"data": {"target": "progression"}}, "splits": {"val": 200, "test": 200}},
    )
