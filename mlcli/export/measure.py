"""An exported file measured on one split of labelled data, by the metrics of its task."""

from pathlib import Path
from typing import Any

import torch

from mlcli.data.inputs import in_tiles
from mlcli.engine.evaluate import as_json
from mlcli.engine.runtime import decide_runtime
from mlcli.errors import CheckpointError
from mlcli.experiment import Experiment
from mlcli.export.file import open_exported
from mlcli.saved import SavedTask, refuse_other_data
from mlcli.scoring import chosen_split
from mlcli.show.details import Evaluation
from mlcli.show.terminal import bar


def measure_file(
    path: Path, experiment: Experiment, split: str | None = None, tiles: tuple[int, float] | None = None
) -> Evaluation:
    """Measure an ONNX file on a split of the data that a configuration names.

    split: train, val or test; None for test, or for val where there is no test split.
    tiles: as in `scoring.measure`.

    Returns no loss and no importance, which take the model itself.
    Raises CheckpointError if the file is of another task, model, classes or form of data than the configuration's.
    """
    file = open_exported(path)
    config, facts = experiment.config, file.facts
    for what, theirs, ours in (
        ("task", facts.task, config.task),
        ("model", facts.model.get("name"), config.name_in("model")),
    ):
        if theirs != ours:
            fix = "name the configuration that the file's run was trained with"
            raise CheckpointError(f"{path.name} is of {what} {theirs}, the YAML of {ours}", where=what, fix=fix)
    task = experiment.build()
    refuse_other_data(file.answers.info.to_plain(), task.facts["data"])
    task.adopt(facts.answers)
    predictor: Any = task  # of a task whose models are exported
    compute = in_tiles(task, file.predict, tiles) if tiles else None
    split, note = chosen_split(split, task.splits)
    runtime = decide_runtime(config)
    runtime.place(task.model)  # where metrics compute
    feed, metrics = SavedTask(task, experiment, runtime, {}, None, ()).feed(), task.metrics(split)
    try:
        with bar(f"measuring {split}", task.splits[split], "sample") as shown:
            for batch in feed.eval_batches(split):
                if compute is not None:
                    predictions = predictor.found_in_tiles(compute, split, batch.indices)
                else:
                    outputs = [torch.from_numpy(part) for part in file.outputs(batch.inputs.cpu().numpy())]
                    predictions = predictor.predictions_of([part.to(runtime.device) for part in outputs])
                metrics.update(predictions, batch)
                shown.update(len(batch))
    finally:
        feed.close()
    kept = "the split is as the YAML makes it now; an exported file does not know what it was trained on"
    return {
        "run": facts.run,
        "checkpoint": path.name,
        "epoch": facts.epoch,
        "split": split,
        "samples": task.splits[split],
        "device": "cpu, onnxruntime",
        "precision": facts.precision,
        "overrides": list(experiment.overrides),
        "caveat": task.caveat,
        "metrics": as_json(metrics.compute()),
        **metrics.details(),
        "on": None,
        "notes": [one for one in (note, kept) if one],
    }
