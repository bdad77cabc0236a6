"""What is done once after the last step: the best model is measured, drawn, and put where other programs find it."""

import json
from typing import Any

import safetensors.torch

from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.contract import HasEmbeddings, Metrics, Task
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.resume import flatten
from mlcli.engine.run import RunFolder
from mlcli.engine.runtime import Runtime
from mlcli.engine.trainer import Training
from mlcli.files import write_atomically


def conclude(t: Training) -> dict[str, dict[str, float]]:
    """Load the best weights into the model, write them as model.safetensors, measure every split there is.

    The splits it was not trained on get an evaluation-<split>.json and pictures/. Returns the best model's scores by
    split. Raises Interrupted if a stop is asked for; all of it is done when the run goes on.
    """
    best = load_checkpoint(t.run.checkpoint("best"))
    weights = model_weights(best)
    t.state.model.load_state_dict(weights)
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}
    step = t.state.progress.step + 1  # TensorBoard forgets it again when the run goes on, as it does all later steps
    metadata = {"config": json.dumps(best["config"]), "facts": json.dumps(best["facts"])}
    write_atomically(t.run.path / "model.safetensors", safetensors.torch.save(plain, metadata))
    scores = {}
    for split in t.task.splits:
        scores[split], metrics = evaluate_split(t.task, t.state.net, t.feed, split, t.runtime, should_stop=t.stop)
        if split != "train":
            record = evaluation_record(t.run, "best.ckpt", best, t.task, split, t.runtime, scores[split], metrics)
            t.run.write_text(f"evaluation-{split}.json", json.dumps(record, indent=1) + "\n")
            _draw(t, split, metrics, record, step)
    if "test" in scores:
        t.log.scalars("test", best["step"], best["epoch"], scores["test"], shown_at=step)
    final = {f"{name}/{split}": value for split, values in scores.items() for name, value in values.items()}
    t.board.hparams(flatten(best["config"]), final, step)
    if t.settings.train.tensorboard.embeddings and isinstance(t.task, HasEmbeddings):
        split = "test" if "test" in scores else t.select_by.split
        t.board.embeddings(split, *t.task.embeddings(split), step)
    return scores


def evaluation_record(
    run: RunFolder,
    checkpoint: str,
    saved: dict[str, Any],
    task: Task,
    split: str,
    runtime: Runtime,
    scores: dict[str, float],
    metrics: Metrics,
) -> dict[str, Any]:
    """What evaluation-<split>.json holds: which model on which split, its scores, and their details.

    saved: the checkpoint's content.
    """
    return {
        "run": run.name,
        "checkpoint": checkpoint,
        "step": saved["step"],
        "epoch": saved["epoch"],
        "split": split,
        "samples": task.splits[split],
        "device": str(runtime.device),
        "precision": runtime.precision,
        "overrides": [],
        "caveat": task.caveat,
        "metrics": scores,
        **metrics.details(),
    }


def _draw(t: Training, split: str, metrics: Metrics, details: dict[str, Any], step: int) -> None:
    """Into pictures/ and, where wanted, TensorBoard."""
    if not t.settings.train.tensorboard.pictures:
        return
    t.state.model.eval()
    pictures = t.task.pictures(split, metrics)
    for title, picture in pictures.items():
        t.run.write_picture(f"{split} {title}", picture)
    t.board.evaluation(f"{split} best", details, step)
    t.board.pictures(f"{split} best", pictures, step)
