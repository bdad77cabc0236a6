"""`mlcli bench-io`: is reading faster than training, and what to change if not."""

import json
import secrets
import shutil
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.commands.common import apply_advice, load_experiment, open_task, refuse_apply, show_progress
from mlcli.engine.launcher import number_of_processes
from mlcli.engine.processes import as_one_of, place
from mlcli.errors import ExitCode, OutputError
from mlcli.experiment import is_override_of
from mlcli.text import command_line, paragraphs, shown
from mlcli.version import __version__

if TYPE_CHECKING:
    from mlcli.machine.bench.bottleneck import ThroughputVerdict

FULL_S, QUICK_S = 58.0, 5.0
"""Seconds from the start of the process to the end of measuring, without and with --quick; a picture follows."""
MOST_START_S = 3.0  # that a process takes to get here; one that is older has done other things before
LEAST_S = 2.0  # of measuring, however long the start took


def run(
    config: Path | None,
    overrides: list[str],
    *,
    budget_s: float = FULL_S,
    full: bool = False,
    apply: bool = False,
    fail_under: float | None = None,
    devices: str | None = None,
    as_json: bool = False,
    root: Path = Path("runs"),
) -> ExitCode:
    """Measure, print the report and write it under `<root>/bench-io/`.

    Args:
        budget_s: about how long it may take until all is measured; `full` comes on top.
        full: also read all data once.
        apply: write the advice into the YAML.
        fail_under: ratio of the loader's throughput to the model's below which 1 is returned.
        devices: processes that are to train together on this machine, or "auto"; what one of them gets is measured.

    Returns OK, or 1 for `fail_under`. Raises UserError.
    """
    began = time.perf_counter() - start_up_s()
    experiment = load_experiment("bench-io", config, overrides)
    assert config is not None

    from mlcli.machine.bench.bottleneck import as_shown, compared, find_bottleneck, memory_checks
    from mlcli.machine.bench.page import advice, page, picture
    from mlcli.machine.bench.throughput import Bench, share_of_one

    if apply:
        refuse_apply(config, overrides, "loader")
    processes = 1 if devices is None else number_of_processes(devices, place())
    with as_one_of(processes):
        task, runtime = open_task(experiment, root)
        model = dict(task.describe())["model"]
        settings = share_of_one(experiment.config, processes)
        left_s = time_left(budget_s, time.perf_counter() - began)
        measured = Bench(
            task, settings, runtime, budget_s=left_s, say=lambda what: show_progress(f"measuring {what} ...")
        ).measure(full=full)
    show_progress("")
    verdict = find_bottleneck(measured)
    report = {
        "mlcli": __version__,
        "config": str(config),
        "overrides": overrides,
        "verdict": asdict(verdict),
        "advice": advice(measured, verdict),
        "checks": [asdict(check) for check in memory_checks(measured, verdict)],
        **asdict(measured),
    }
    # A name that is not taken.
    folder = root / "bench-io" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    # Shown before anything is written: a full disk must not cost what took a minute to measure.
    if as_json:
        print(json.dumps({**report, "report": shown(folder.absolute())}, indent=2), flush=True)
    else:
        print(page(measured, verdict, model, [] if apply else _hint(config, overrides, devices, verdict)), flush=True)
    files = {
        "report.json": json.dumps(report, indent=2).encode() + b"\n",
        "plot.png": picture(measured, verdict, f"{experiment.name}: {model}"),
    }
    _save(folder, files)
    ending = [("saved", f"{shown(folder.absolute())}/{', '.join(files)}   measured in {measured.seconds:.0f} s")]
    if apply:
        ending += apply_advice(config, "loader", verdict.changes, _in_words(verdict.changes))
    if not as_json:
        print(paragraphs(ending))
    if fail_under is None:
        return ExitCode.OK
    for doubt in verdict.doubts:
        print(doubt, file=sys.stderr)
    if as_shown(verdict.ratio) < fail_under:  # as it is shown, or 1x would be less than 1
        print(f"{compared(verdict.ratio)}, less than the {fail_under:g}x asked for", file=sys.stderr)
        return ExitCode(1)  # as test runners and linters say no
    return ExitCode.OK


def start_up_s() -> float:
    """Seconds from the start of this process to now, or MOST_START_S for one that did not start for this."""
    import psutil

    return min(max(0.0, time.time() - psutil.Process().create_time()), MOST_START_S)


def time_left(budget_s: float, spent_s: float) -> float:
    """Seconds for measuring, when finding and opening the data took some already."""
    return max(min(LEAST_S, budget_s), budget_s - spent_s)


def _in_words(changes: dict[str, int | str]) -> str:
    return ", ".join(f"loader.{key}: {value}" for key, value in changes.items())


def _hint(
    config: Path, overrides: list[str], devices: str | None, verdict: "ThroughputVerdict"
) -> list[tuple[str, str]]:
    """Return the command that writes the advice: the same one, without overrides of the keys it would write."""
    if not verdict.changes:
        return []
    several = [] if devices is None else ["--devices", devices]
    kept = [override for override in overrides if not is_override_of("loader", override)]
    command = command_line("bench-io", config, *kept, *several, "--apply")
    return [("apply", f"{command}   writes {_in_words(verdict.changes)}, keeps comments and order")]


def _save(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by name into a new folder, or nothing. Raises OutputError."""
    from mlcli.files import claim_folder, write_atomically
    from mlcli.outputs import make_output_folder

    make_output_folder(folder.parent)
    claim_folder(folder)
    try:
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OutputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
