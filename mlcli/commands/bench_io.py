"""`mlcli bench-io`: is reading faster than training, and what to change if not."""

import json
import secrets
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli import __version__
from mlcli.errors import ConfigError, ExitCode
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from mlcli.machine.findings import Findings
    from mlcli.machine.verdict import Verdict

FULL_S, QUICK_S = 57.0, 7.0
"""Seconds of measuring, without and with --quick; opening loaders brings them to about 60 and 10."""


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
        budget_s: about how long measuring may take; finding the data and `full` come on top.
        full: read all data once besides.
        apply: write the advice into the YAML.
        fail_under: ratio of the loader's rate to the model's below which 1 is returned.

    Returns OK, or 1 for `fail_under`. Raises UserError.
    """
    if config is None:
        raise ConfigError("which YAML?", where="mlcli bench-io", fix="mlcli bench-io config.yaml")
    experiment = Experiment.load(config, overrides)

    from mlcli.engine.run import check_writable
    from mlcli.engine.runtime import decide_runtime
    from mlcli.machine.apply import refuse_to_apply
    from mlcli.machine.page import advice, page
    from mlcli.machine.throughput import Bench
    from mlcli.machine.verdict import judge

    if apply:
        refuse_to_apply(config)
    check_writable(root)
    runtime = decide_runtime(experiment.config.train)
    task = experiment.config.build()
    model = dict(task.describe())["model"]
    bench = Bench(task, experiment.config, runtime, budget_s=budget_s, say=_say)
    findings = bench.measure(full=full)
    _say("")
    verdict = judge(findings)
    report = {
        "mlcli": __version__,
        "config": str(config),
        "overrides": overrides,
        "verdict": asdict(verdict),
        "advice": advice(findings, verdict),
        **findings.plain(),
    }
    folder = _save(root, report, findings, verdict, f"{experiment.name}: {model}")
    ending = _apply(config, verdict, apply)
    if as_json:
        print(json.dumps({**report, "report": str(folder)}, indent=2))
    else:
        print(
            page(
                findings,
                verdict,
                model,
                [*ending, ("saved", f"{folder}/report.json, plot.png   measured in {findings.seconds:.0f} s")],
            )
        )
    if fail_under is not None and verdict.ratio < fail_under:
        print(f"the loader feeds {verdict.ratio:.2f}x what the model eats, less than the {fail_under:g}x asked for",
              file=sys.stderr)  # fmt: skip
        return ExitCode(1)  # as test runners and linters say no
    return ExitCode.OK


def _apply(config: Path, verdict: "Verdict", apply: bool) -> list[tuple[str, str]]:
    """Write the advice if asked to. Returns what to say about it."""
    from mlcli.machine import apply as yaml

    changes = {
        key: value for key, value in (("workers", verdict.workers), ("cache", verdict.cache)) if value is not None
    }
    told = ", ".join(f"loader.{key}: {value}" for key, value in changes.items())
    if not changes:
        return [("apply", f"nothing to write: {config} stays as it is")] if apply else []
    if not apply:
        return [("apply", f"mlcli bench-io {config} --apply   writes {told}, keeps comments and order")]
    yaml.apply(config, "loader", changes)
    Experiment.load(config)
    return [("apply", f"wrote {told} into {config}")]


def _save(root: Path, report: dict[str, Any], findings: "Findings", verdict: "Verdict", title: str) -> Path:
    """report.json and plot.png in a new folder; mkdir is the arbiter between simultaneous starts."""
    from mlcli.engine.files import cannot_write, write_atomically
    from mlcli.machine.plot import picture
    from mlcli.report.summary import shown

    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = root / "bench-io" / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_atomically(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    write_atomically(folder / "plot.png", picture(findings, verdict, title))
    return Path(shown(folder.absolute()))


def _say(what: str) -> None:
    """What is being measured, on one line that is overwritten; only for people who look."""
    if sys.stderr.isatty():
        print(f"\r\033[Kmeasuring {what} ..." if what else "\r\033[K", end="", file=sys.stderr, flush=True)
