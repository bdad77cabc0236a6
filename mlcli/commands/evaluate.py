"""`mlcli evaluate`: how good the saved model of a run, or an exported file, is on one split of its data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlcli.commands.common import find_run, is_exported, load_experiment, tiles_asked
from mlcli.errors import ConfigError
from mlcli.outputs import png
from mlcli.show.details import ClassScore, Evaluation, Robustness
from mlcli.text import number, numbers, paragraphs, plural, table, truncated

MOST_CLASSES = 30
"""Rows of the table of classes on the screen; the JSON has them all."""
MOST_COLUMNS = 15
"""Rows of the table of columns, which the JSON has all of, too."""
AMOUNTS, MOST_AMOUNTS = 5, 50
"""Amounts that a range of changes is measured at, and those of a list at most."""
CLASS_SCORES: tuple[ClassScore, ...] = ("ap", "ap50", "precision", "recall", "f1")
"""Columns of the table of classes."""
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
    views: str | None = None,
    changes: Mapping[Any, str | None] | None = None,
    size: int | None = None,
    tiles: int | None = None,
    overlap: float | None = None,
) -> None:
    """Measure a run's model, print the result and write it as evaluation-<split>.json into the run folder.

    Args:
        run: folder or name of a run; or an exported ONNX file, whose result is only printed.
        split: train, val or test; None for test, or for val where there is no test split.
        overrides: `key=value` changes to the run's config, such as where the data now are.
        config: the YAML that names the data of an exported file.
        on: new labelled data of the same kind, all of which are measured instead of a split.
        checkpoint: "best" or "last".
        views: of each image, whose answers are made one: "flip", "scale", "shift", or several with commas. Written as
            evaluation-<split>-tta.json.
        changes: at most one of shift, scale, rotate, blur, noise, and the amounts to measure at, "0..4" or "0,1,4".
            Written as robustness-<split>-<change>.json and .png.
        size: pixels of the longer side that images are brought to. Written as evaluation-<split>-size<size>.json.
        tiles, overlap: side of the tiles that the model looks at instead of whole images, in their pixels, and the
            share of it that the next tile sees too, 0.2 unless given. Written as evaluation-<split>-tiles.json.

    Raises CheckpointError if the data found are not those the model was made for, DataError for a missing split.
    """
    asked = {kind: text for kind, text in (changes or {}).items() if text is not None}
    tiling = tiles_asked(tiles, overlap)
    given = [f"--{kind}" for kind in asked] + ["--tta"] * (views is not None) + ["--tiles"] * (tiling is not None)
    if len(given) > 1:
        raise ConfigError("one of these can be measured at a time", where=" ".join(given), fix=f"leave out {given[-1]}")
    if is_exported(run):
        if asked or views or size is not None:
            what = "changed images, views and other sizes are measured on a run"
            raise ConfigError(what, where=run, fix="give the run that it was exported from")
        if on is not None:
            fix = f"mlcli evaluate {run} config.yaml, whose data section names the data"
            raise ConfigError("an exported file is measured on the data of a YAML", where="--on", fix=fix)
        experiment = load_experiment(f"evaluate {run}", config, overrides)

        from mlcli.export.measure import measure_file

        result = measure_file(Path(run), experiment, split, tiling)
        print(json.dumps(result, indent=2) if as_json else _page(result))
        return
    folder = find_run(run, root)
    changed = {kind: _amounts(kind, text) for kind, text in asked.items()}

    from mlcli.scoring import Asked, measure, measure_changed
    from mlcli.show.evaluation import robustness
    from mlcli.show.figure import image

    measured = Asked(folder, folder.checkpoint(checkpoint), split, overrides, on, size)
    if changed:
        ((kind, amounts),) = changed.items()
        scores = measure_changed(measured, kind, amounts)
        stem, page = f"robustness-{scores['split']}-{kind}", _robustness_page(scores)
        text = json.dumps(scores, indent=2)
        folder.write_bytes(f"{stem}.png", png(image(*robustness(scores))))
    else:
        seen = tuple(dict.fromkeys(views.replace(" ", "").split(","))) if views is not None else ()
        result = measure(measured, views=seen, tiles=tiling)
        how = f"{'-tta' if seen else '-tiles' if tiling else ''}{f'-size{size}' if size else ''}"
        stem, page = f"evaluation-{result['split']}{how}", _page(result)
        text = json.dumps(result, indent=2)
    folder.write_text(f"{stem}.json", text + "\n")
    print(text if as_json else f"{page}\n\nwritten: {folder.path / stem}.json{' and .png' if changed else ''}")


def _page(result: Evaluation) -> str:
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
        keys = [key for key in CLASS_SCORES if key in classes[0]]
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
    if kinds := result.get("breakdown"):
        rows = [[kind["name"], f"{kind['count']:,}", number(kind["delta_map50"])] for kind in kinds]
        parts.append(table(["mistakes", "count", "map50 lost to them"], rows))
    if "importance" in result:
        found = result["importance"]
        rows = [[c["name"], number(c["mean"]), f"± {number(c['std'])}"] for c in found["columns"][:MOST_COLUMNS]]
        parts.append(table([f"without the column, {found['metric']} is worse by", "mean", "spread"], rows))
    return "\n\n".join(parts)


def _robustness_page(result: Robustness) -> str:
    """The scores by amount as text for a terminal."""
    names = list(dict.fromkeys(name for row in result["scores"] for name in row if name != "amount"))
    columns = [numbers([row.get(name) for row in result["scores"]]) for name in ("amount", *names)]
    head = [["run", f"{result['run']} ({result['checkpoint']})"]]
    head += [["split", f"{result['split']}, {result['samples']:,} samples"], ["amount", result["unit"]]]
    head += [["data", note] for note in result["notes"]]
    header = [result["change"], *(name.replace("_", " ") for name in names)]
    scores = table(header, list(zip(*columns, strict=True)), drop=range(len(names), 2, -1))
    return f"{table(head[0], head[1:], left=2)}\n\n{scores}"


def _amounts(kind: Any, text: str) -> list[float]:
    """ "0..4" -> [0, 1, 2, 3, 4], always five; "0,1,4" -> [0, 1, 4]. Raises ConfigError."""
    from mlcli.data.changes import KINDS

    option, least, most = f"--{kind}", KINDS[kind].least, KINDS[kind].most
    fix = f"{option} 0,1,2 or {option} 0..4, which is five amounts, from {least:g} to {most:g}"
    try:
        if ".." in text:
            low, high = map(float, text.split(".."))
            amounts = [round(low + (high - low) * i / (AMOUNTS - 1), 6) for i in range(AMOUNTS)]
        else:
            amounts = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"cannot read the amounts '{text}'", where=option, fix=fix) from None
    if outside := [amount for amount in amounts if not least <= amount <= most]:
        raise ConfigError(f"{outside[0]:g} is no amount to change images by", where=option, fix=fix)
    if len(amounts) > MOST_AMOUNTS:
        what = f"{len(amounts)} amounts are as many evaluations, and {MOST_AMOUNTS} the most"
        raise ConfigError(what, where=option, fix=fix)
    return sorted(set(amounts))
