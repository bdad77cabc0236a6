"""`mlcli evaluate`: how good the saved model of a run is on one split of its data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands.common import find_run
from mlcli.errors import ConfigError, DataError
from mlcli.text import number, table, truncated

if TYPE_CHECKING:
    from mlcli.engine.membership import Changes

MOST_CLASSES = 30
"""Rows of the table of classes on the screen; the JSON has them all."""
LARGEST_MATRIX = 20
"""Classes up to which a confusion matrix is printed."""


def run(
    run: str,
    split: str | None = None,
    overrides: Sequence[str] = (),
    *,
    checkpoint: str = "best",
    root: Path = Path("runs"),
    as_json: bool = False,
) -> None:
    """Measure a run's model, print the result and write it as evaluation-<split>.json into the run folder.

    Args:
        run: folder or name of a run.
        split: train, val or test; None for test, or for val where there is no test split.
        overrides: `key=value` changes to the run's config, such as where the data now are.
        checkpoint: "best" or "last".

    Raises CheckpointError if the data found are not those the model was made for, DataError for a missing split.
    """
    folder = find_run(run, root)

    from mlcli.engine.evaluate import evaluate_split, evaluation_record
    from mlcli.saved import load_task

    path = folder.checkpoint(checkpoint)
    loaded = load_task(folder, path, overrides)
    task, runtime, changes = loaded.task, loaded.runtime, loaded.known.changes if loaded.known else None
    split, note = _chosen_split(split, task.splits if changes is None else changes.members)
    notes = [*loaded.notes, *(_said(changes, split, folder.name) if changes else ())]
    feed = loaded.feed()
    try:
        scores, metrics = evaluate_split(task, task.model, feed, split, runtime)
    finally:
        feed.close()
    result = evaluation_record(folder.name, path.name, loaded.saved, task, split, runtime, scores, metrics)
    result |= {"overrides": list(overrides), "notes": notes, "changes": changes.to_plain() if changes else None}
    text = json.dumps(result, indent=2)
    folder.write_text(f"evaluation-{split}.json", text + "\n")
    print(text if as_json else _page(result, note, folder.path / f"evaluation-{split}.json"))


def _chosen_split(asked: str | None, splits: Mapping[str, int]) -> tuple[str, str]:
    """The split to measure, and what a person should hear about the choice."""
    if asked is None:
        if "test" in splits:
            return "test", ""
        fallback = "val" if "val" in splits else "train"
        return fallback, f"the data have no test split, so this is {fallback}"
    if asked not in ("train", "val", "test"):
        raise ConfigError(f"'{asked}' is no split", where="--split", fix="train, val or test")
    if asked not in splits:
        known = ", ".join(f"{name} ({count:,})" for name, count in splits.items())
        where, fix = f"splits there are: {known}", f"--split {next(iter(splits))}"
        raise DataError(f"there is no split '{asked}'", where=where, fix=fix)
    return asked, ""


def _said(changes: "Changes", split: str, run: str) -> list[str]:
    """What a person should hear of data that have changed since training. Raises DataError if nothing is left of a
    split."""
    new_data = f"mlcli evaluate {run} --on DATA"
    if not changes.found(split):
        raise DataError(
            f"none of the run's {changes.members[split]:,} {split} samples is there any more",
            where="; ".join(changes.lines()),
            fix=f"restore the data; {new_data} measures all of new data",
        )
    told = changes.lines()
    if changes.new:
        told[-1] += f"; {new_data} measures new data"
    if judged := changes.judged.get(split):
        told.append(f"dividing the data anew would have counted {judged:,} of the training samples as {split}")
    return told


def _page(result: dict[str, Any], note: str, path: Path) -> str:
    """The result as text for a terminal."""
    head = [
        ["run", f"{result['run']} ({result['checkpoint']}, epoch {result['epoch']})"],
        ["split", f"{result['split']}, {result['samples']:,} samples" + (f" ({note})" if note else "")],
        ["device", f"{result['device']}, {result['precision']}"],
    ]
    if result["caveat"]:
        head.append(["caveat", result["caveat"]])
    head += [["data", note] for note in result["notes"]]
    scores = [[name.replace("_", " "), number(value)] for name, value in result["metrics"].items()]
    parts = [table(head[0], head[1:], left=2), table(scores[0], scores[1:])]
    if classes := result.get("classes", []):
        keys = [key for key in ("ap", "ap50", "precision", "recall", "f1") if key in classes[0]]
        rows = [[c["name"], *(number(c[key]) for key in keys), f"{c['support']:,}"] for c in classes[:MOST_CLASSES]]
        left_out = len(classes) - len(rows)
        more = f"\n... and {left_out} more classes; all of them with --json" if left_out else ""
        parts.append(table(["class", *keys, "samples"], rows) + more)
        if len(classes) <= LARGEST_MATRIX:
            short = [truncated(name, 12) for name in result.get("confusion_names") or [c["name"] for c in classes]]
            # Dots for zeros, so that mistakes stand out.
            counts = [[str(count) if count else "·" for count in row] for row in result["confusion"]]
            rows = [[name, *row] for name, row in zip(short, counts, strict=True)]
            parts.append("confusion: rows are the truth, columns the predictions\n" + table(["", *short], rows))
    if "breakdown" in result:
        rows = [[kind["name"], f"{kind['count']:,}", number(kind["delta_map50"])] for kind in result["breakdown"]]
        parts.append(table(["mistakes", "count", "map50 lost to them"], rows))
    return "\n\n".join([*parts, f"written: {path}"])
