"""`mlcli runs`: what was trained and how well; `runs compare`: what differed; `mlcli report`: the page of one run."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands.common import find_run
from mlcli.errors import CheckpointError
from mlcli.text import ABSENT, duration, number, shown, table, truncated

if TYPE_CHECKING:
    from mlcli.engine.run import RunFolder

WIDEST_VALUE = 40
"""Characters of a config value in the comparison; longer ones are cut."""
LONGEST_FILE_NAME = 100
"""Characters of the picture's name; file systems take 255 bytes."""
NARROW_DROPS = (6, 2, 3)
"""Columns of the list that a narrow screen leaves out, one after another: time, started, epochs."""
MOST_COLUMNS = 4
"""Runs of one name that are compared unasked; more do not fit a terminal."""


def run_list(root: Path, as_json: bool = False) -> None:
    """Print a table of all runs under `root`, oldest first. A folder that cannot be read is listed as unreadable."""
    from mlcli.engine.run import RunFolder, folders_below, list_runs

    runs = list_runs(root)
    known = {run.path for run in runs}  # the others were begun as runs but have no status
    begun = {path.absolute() for path in folders_below(root, 2) if os.path.isdir(path / "checkpoints")} - known
    runs = sorted([*runs, *map(RunFolder, begun)], key=lambda run: (run.path.name, str(run.path)))
    summaries = [summary(run) for run in runs]
    if as_json:
        print(json.dumps(summaries, indent=2))
    elif not summaries:
        print(f"no runs in {root}/ yet; the first: mlcli init digits && mlcli train config.yaml")
    else:
        header = ["run", "state", "started", "epochs", "best", "test", "time"]
        print(table(header, [_row(s) for s in summaries], left=3, drop=NARROW_DROPS))
        for s in summaries:
            if s["state"] == "unreadable":
                print(f"{s['run']}: {s['error']}")


def run_compare(runs: Sequence[str], root: Path, as_json: bool = False, picture: Path | None = None) -> None:
    """Print the config keys in which runs differ, then their results, one column a run; draw their curves in one PNG.

    A name stands for the newest of its runs; named alone, for the newest few. The picture lies in `root`, or at
    `picture`. Raises CheckpointError if a run cannot be found or read, OutputError if the picture cannot be written.
    """
    from mlcli.engine.resume import flatten
    from mlcli.engine.run import list_runs, open_run
    from mlcli.files import write_atomically
    from mlcli.outputs import png
    from mlcli.report.comparison import comparison
    from mlcli.report.record import Record
    from mlcli.show.figure import image

    folders = [open_run(name, root) for name in runs]
    if len(runs) == 1:
        folders = list_runs(root / runs[0])[-MOST_COLUMNS:] or folders
    configs = [flatten(folder.config_plain()) for folder in folders]
    summaries = [summary(folder) for folder in folders]
    for s in summaries:
        if s["state"] == "unreadable":
            raise CheckpointError(s["error"], where=s["path"])
    keys = dict.fromkeys(key for config in configs for key in config)  # each once, in the order of the files
    columns = {key: [config.get(key) for config in configs] for key in keys}
    differing = {key: values for key, values in columns.items() if any(value != values[0] for value in values)}
    compared = "-".join(dict.fromkeys(folder.path.parent.name for folder in folders))  # each name once
    charts = comparison([Record.read(folder) for folder in folders])
    drawn = (picture or root / f"{f'compare-{compared}'[:LONGEST_FILE_NAME]}.png") if charts else None
    if drawn:
        write_atomically(drawn, png(image(*charts)))
    if as_json:
        print(json.dumps({"runs": summaries, "config": differing, "picture": str(drawn) if drawn else None}, indent=2))
        return
    rows = []
    for key, values in differing.items():
        texts = [ABSENT if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
        rows.append([key, *(truncated(text, WIDEST_VALUE) for text in texts)])
    rows = rows or [["(no difference in config)", *[""] * len(folders)]]
    rows += [[""] * (len(folders) + 1), *_outcomes(summaries)]
    print(table(["", *(s["run"] for s in summaries)], rows))
    if drawn:
        print(f"\ncurves: {drawn}")


def run_report(run: str, root: Path) -> None:
    """Write report.html into a run folder and say where it lies. Raises CheckpointError if there is no such run."""
    folder = find_run(run, root)

    from mlcli.report.page.write import write_report

    print(f"written: {shown(write_report(folder))}")


def summary(run: "RunFolder") -> dict[str, Any]:
    """Summarise a run as plain data; state "unreadable" and the reason if it is damaged."""
    known = {"run": run.name, "path": str(run.path)}
    try:
        status = run.status()
    except (CheckpointError, OSError) as error:
        return {**known, "state": "unreadable", "error": getattr(error, "what", str(error))}
    best = status.get("best")
    return {
        **known,
        "state": status["state"],
        "started": status.get("started"),
        "epochs_done": status.get("epoch") or 0,
        "epochs": _planned_epochs(run, status),
        "best": {key: best.get(key) for key in ("metric", "split", "value", "epoch")} if best else None,
        "scores": status.get("scores") or {},
        "seconds": status.get("seconds"),
    }


def _planned_epochs(run: "RunFolder", status: dict[str, Any]) -> int | None:
    """Return the planned epochs, from the status or else the config."""
    if status.get("epochs") is not None:
        return status["epochs"]
    try:
        return int(run.config_plain()["train"]["epochs"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None


def _row(s: dict[str, Any]) -> list[str]:
    if s["state"] == "unreadable":
        return [s["run"], "unreadable", *[ABSENT] * 5]
    metric = (s["best"] or {}).get("metric")  # that decided what is best
    test = number(s["scores"].get("test", {}).get(metric))
    return [s["run"], s["state"], _when(s["started"]), _epochs(s), _best(s), test, duration(s["seconds"])]


def _outcomes(summaries: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["state", *(s["state"] for s in summaries)], ["epochs", *map(_epochs, summaries)]]
    rows.append(["best", *map(_best, summaries)])
    scores = dict.fromkeys(
        (split, metric) for s in summaries for split, values in s["scores"].items() for metric in values
    )
    for split, metric in scores:
        values = [s["scores"].get(split, {}).get(metric) for s in summaries]
        rows.append([f"{split} {metric}", *map(number, values)])
    return [*rows, ["time", *(duration(s["seconds"]) for s in summaries)]]


def _when(started: str | None) -> str:
    """UTC as stored -> the local time of whoever reads it, to the minute."""
    if not started:
        return ABSENT
    moment = datetime.fromisoformat(started)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _epochs(s: dict[str, Any]) -> str:
    return f"{s['epochs_done']}/{s['epochs'] or '?'}"


def _best(s: dict[str, Any]) -> str:
    best = s["best"]
    if not best or best["value"] is None:
        return ABSENT
    return f"{best['split'] or 'val'} {best['metric']} {number(best['value'])}"
