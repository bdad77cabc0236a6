"""`mlcli bench-io`: is reading faster than training, and what to change if not."""

import json
import secrets
import shlex
import shutil
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli import __version__
from mlcli.errors import ConfigError, ExitCode, OutputError
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from mlcli.machine.bench.findings import Findings
    from mlcli.machine.bench.verdict import Verdict

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
    as_json: bool = False,
    root: Path = Path("runs"),
) -> ExitCode:
    """Measure, print the report and write it under `<root>/bench-io/`.

    Args:
        budget_s: about how long it may take until all is measured; `full` comes on top.
        full: read all data once besides.
        apply: write the advice into the YAML.
        fail_under: ratio of the loader's rate to the model's below which 1 is returned.

    Returns OK, or 1 for `fail_under`. Raises UserError.
    """
    began = time.perf_counter() - start_up_s()
    if config is None:
        raise ConfigError("which YAML?", where="mlcli bench-io", fix="mlcli bench-io config.yaml")
    experiment = Experiment.load(config, overrides)

    from mlcli.engine.run import check_writable
    from mlcli.engine.runtime import decide_runtime
    from mlcli.machine.bench.page import advice, page
    from mlcli.machine.bench.rating import times, told
    from mlcli.machine.bench.shared_memory import checks
    from mlcli.machine.bench.throughput import Bench
    from mlcli.machine.bench.verdict import judge
    from mlcli.schema.edit import refuse_to_apply
    from mlcli.text import paragraphs, shown

    if apply:
        refuse_to_apply(config)
        _refuse_overrides(overrides)
    check_writable(root)
    runtime = decide_runtime(experiment.config)
    task = experiment.config.build()
    model = dict(task.describe())["model"]
    left_s = time_left(budget_s, time.perf_counter() - began)
    bench = Bench(task, experiment.config, runtime, budget_s=left_s, say=_say)
    findings = bench.measure(full=full)
    _say("")
    verdict = judge(findings)
    report = {
        "mlcli": __version__,
        "config": str(config),
        "overrides": overrides,
        "verdict": asdict(verdict),
        "advice": advice(findings, verdict),
        "checks": [asdict(check) for check in checks(findings, verdict)],
        **findings.plain(),
    }
    folder = _new_folder(root)
    # Shown before anything is written: a full disk must not cost what took a minute to measure.
    if as_json:
        print(json.dumps({**report, "report": shown(folder.absolute())}, indent=2), flush=True)
    else:
        print(page(findings, verdict, model, [] if apply else _hint(config, overrides, verdict)), flush=True)
    _save(folder, report, findings, verdict, f"{experiment.name}: {model}")
    saved = f"{shown(folder.absolute())}/report.json, plot.png   measured in {findings.seconds:.0f} s"
    ending = [("saved", saved), *(_apply(config, verdict) if apply else [])]
    if not as_json:
        print(paragraphs(ending))
    for doubt in verdict.doubts if fail_under is not None else ():
        print(doubt, file=sys.stderr)
    if fail_under is not None and told(verdict.ratio) < fail_under:  # as it is shown, or 1x would be less than 1
        print(f"the loader feeds {times(verdict.ratio)} what the model eats, less than the {fail_under:g}x asked for",
              file=sys.stderr)  # fmt: skip
        return ExitCode(1)  # as test runners and linters say no
    return ExitCode.OK


def start_up_s() -> float:
    """Seconds from the start of this process to now, or MOST_START_S for one that did not start for this."""
    import psutil

    return min(max(0.0, time.time() - psutil.Process().create_time()), MOST_START_S)


def time_left(budget_s: float, spent_s: float) -> float:
    """Seconds for measuring, when finding and opening the data took some already."""
    return max(min(LEAST_S, budget_s), budget_s - spent_s)


def _refuse_overrides(overrides: list[str]) -> None:
    for override in overrides:
        if _is_of_loader(override):
            raise ConfigError("with --apply, loader keys cannot be overridden: the file is what is judged",
                              where=override, fix="drop the override or the --apply")  # fmt: skip


def _is_of_loader(override: str) -> bool:
    return override.partition("=")[0].strip().partition(".")[0] == "loader"


def _changes(verdict: "Verdict") -> dict[str, int | str]:
    advised = {"workers": verdict.workers, "cache": verdict.cache}
    return {key: value for key, value in advised.items() if value is not None}


def _told(changes: dict[str, int | str]) -> str:
    return ", ".join(f"loader.{key}: {value}" for key, value in changes.items())


def _hint(config: Path, overrides: list[str], verdict: "Verdict") -> list[tuple[str, str]]:
    """How to have the advice written: the same command, but for overrides of what would be written."""
    changes = _told(_changes(verdict))
    if not changes:
        return []
    command = shlex.join(["mlcli", "bench-io", str(config), *(o for o in overrides if not _is_of_loader(o)), "--apply"])
    return [("apply", f"{command}   writes {changes}, keeps comments and order")]


def _apply(config: Path, verdict: "Verdict") -> list[tuple[str, str]]:
    """Write the advice. Returns what to say about it."""
    from mlcli.schema import edit as yaml

    changes = _changes(verdict)
    if not changes:
        return [("apply", f"nothing to write: {config} stays as it is")]
    yaml.apply(config, "loader", changes)
    Experiment.load(config)
    return [("apply", f"wrote {_told(changes)} into {config}")]


def _new_folder(root: Path) -> Path:
    """A name nobody has taken."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return root / "bench-io" / f"{stamp}-{secrets.token_hex(2)}"


def _save(folder: Path, report: dict[str, Any], findings: "Findings", verdict: "Verdict", title: str) -> None:
    """report.json and plot.png in a new folder, or nothing; mkdir is the arbiter between simultaneous starts."""
    from mlcli.files import cannot_write, write_atomically
    from mlcli.machine.bench.plot import picture

    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        write_atomically(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")
        write_atomically(folder / "plot.png", picture(findings, verdict, title))
    except OutputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _say(what: str) -> None:
    """What is being measured, on one line that is overwritten; only for people who look."""
    if sys.stderr.isatty():
        print(f"\r\033[Kmeasuring {what} ..." if what else "\r\033[K", end="", file=sys.stderr, flush=True)
