"""`mlcli evaluate`: how good the saved model of a run, or an exported file, is on one split of its data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlcli.commands.common import find_run, is_exported, load_experiment
from mlcli.errors import ConfigError
from mlcli.text import number, paragraphs, plural, table, truncated

MOST_CLASSES = 30
"""Rows of the table of classes on the screen; the JSON has them all."""
MOST_COLUMNS = 15
"""Rows of the table of columns, which the JSON has all of, too."""
LARGEST_MATRIX = 20
"""Classes up to which a confusion matrix is printed."""


def run(
    run: str,
    split: str | None = None,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    on: Path | None = None,
    checkpoint: str = "best",
    root: Path = Path("runs"),
    as_json: bool = False,
) -> None:
    """Measure a run's model, print the result and write it as evaluation-<split>.json into the run folder.

    Args:
        run: folder or name of a run; or an exported ONNX file, whose result is only printed.
        split: train, val or test; None for test, or for val where there is no test split.
        overrides: `key=value` changes to the run's config, such as where the data now are.
        config: the YAML that names the data of an exported file.
        on: new labelled data of the same kind, all of which are measured instead of a split.
        checkpoint: "best" or "last".

    Raises CheckpointError if the data found are not those the model was made for, DataError for a missing split.
    """
    if is_exported(run):
        if on is not None:
            fix = f"mlcli evaluate {run} config.yaml, whose data section names the data"
            raise ConfigError("an exported file is measured on the data of a YAML", where="--on", fix=fix)
        experiment = load_experiment(f"evaluate {run}", config, overrides)

        from mlcli.export.measure import measure_file

        result = measure_file(Path(run), experiment, split)
        print(json.dumps(result, indent=2) if as_json else _page(result))
        return
    folder = find_run(run, root)

    from mlcli.saved import measure

    result = measure(folder, folder.checkpoint(checkpoint), split, overrides, on=on)
    text = json.dumps(result, indent=2)
    file = f"evaluation-{result['split']}.json"
    folder.write_text(file, text + "\n")
    print(text if as_json else f"{_page(result)}\n\nwritten: {folder.path / file}")


def _page(result: dict[str, Any]) -> str:
    """The result as text for a terminal."""
    head = [
        ("run", f"{result['run']} ({result['checkpoint']}, epoch {result['epoch']})"),
        ("split", f"{result['split']}, {result['samples']:,} samples" + (f" ({result['on']})" if result["on"] else "")),
        ("device", f"{result['device']}, {result['precision']}"),
    ]
    if result["caveat"]:
        head.append(("caveat", result["caveat"]))
    head += [("data", note) for note in result["notes"]]
    scores = [[name.replace("_", " "), number(value)] for name, value in result["metrics"].items()]
    parts = [paragraphs(head, 8), table(scores[0], scores[1:])]
    if classes := result.get("classes", []):
        keys = [key for key in ("ap", "ap50", "precision", "recall", "f1") if key in classes[0]]
        rows = [[c["name"], *(number(c[key]) for key in keys), f"{c['support']:,}"] for c in classes[:MOST_CLASSES]]
        left_out = len(classes) - len(rows)
        more = f"\n... and {left_out} more classes; all of them with --json" if left_out else ""
        if unseen := sum(not c["support"] for c in classes):
            more += f"\n{plural(unseen, 'class', 'classes')} of no sample here cannot be measured: not in the averages"
        parts.append(table(["class", *keys, "samples"], rows) + more)
        if len(classes) <= LARGEST_MATRIX:
            short = [truncated(name, 12) for name in result.get("confusion_names") or [c["name"] for c in classes]]
            # Dots for zeros, so that mistakes stand out.
            counts = [[str(count) if count else "·" for count in row] for row in result["confusion"]]
            rows = [[name, *row] for name, row in zip(short, counts, strict=True)]
            parts.append("confusion: rows are the truth, columns the predictions\n" + table(["", *short], rows))
    if result.get("breakdown"):
        rows = [[kind["name"], f"{kind['count']:,}", number(kind["delta_map50"])] for kind in result["breakdown"]]
        parts.append(table(["mistakes", "count", "map50 lost to them"], rows))
    if "importance" in result:
        found = result["importance"]
        rows = [[c["name"], number(c["mean"]), f"± {number(c['std'])}"] for c in found["columns"][:MOST_COLUMNS]]
        parts.append(table([f"without the column, {found['metric']} is worse by", "mean", "spread"], rows))
    return "\n\n".join(parts)
