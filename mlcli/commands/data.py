"""`mlcli data`: what is wrong with a data set, and annotations from one format to another."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.errors import ConfigError, ExitCode
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from mlcli.data.check.examination import Examination, Sheet

SHEETS = ("classes", "objects", "suspicious", "duplicates")
"""Pictures that an examination may make; those of an earlier one are removed when there is nothing to show any more."""


def run_check(
    config: Path | None, overrides: list[str], *, as_json: bool = False, root: Path = Path("runs")
) -> ExitCode:
    """Print everything that is odd about the data; write it with pictures under `<root>/data-check/<name>/`.

    Returns DATA if there is an error among the findings, OK otherwise. Raises UserError.
    """
    if config is None:
        raise ConfigError("which YAML?", where="mlcli data check", fix="mlcli data check config.yaml")
    experiment = Experiment.load(config, overrides)

    from mlcli.data.check.examination import page, verdict
    from mlcli.engine.run import check_writable
    from mlcli.text import shown

    check_writable(root)
    examination = _examine(experiment.config)
    folder = root / "data-check" / experiment.name
    report = _report(config, overrides, examination, verdict(examination))
    paths = _save(folder, report, examination.sheets)
    errors = examination.count("error")
    if as_json:
        print(json.dumps(report | {"pictures": [shown(path.absolute()) for path in paths]}, indent=2))
    else:
        next_command = "mlcli data check" if errors else "mlcli train"
        typed = " ".join([next_command, str(config), *overrides])
        saved = [
            ("pictures", f"{shown(path.absolute())}   {sheet.shows}")
            for path, sheet in zip(paths, examination.sheets, strict=True)
        ]
        saved.append(("report", shown((folder / "report.json").absolute())))
        saved.append(("next", typed))
        print(page(examination, _described(experiment.config.data), saved))
    return ExitCode.DATA if errors else ExitCode.OK


def run_convert(config: Path, target: Path, to: str) -> None:
    """Write the data of a detection experiment in another format. Raises UserError."""
    experiment = Experiment.load(config)
    if experiment.config.task != "detection":
        raise ConfigError(
            f"only annotated pictures are converted, and this is a {experiment.config.task}",
            where=f"task in {config}",
            fix="give the YAML of a detection",
        )

    from mlcli.tasks.detection.data.annotations.convert import convert

    print("\n".join(convert(experiment.config.data, to, target)))


def _examine(config: Any) -> "Examination":
    if config.task == "detection":
        from mlcli.tasks.detection.data.check import examine as examine_annotated

        return examine_annotated(config.data)
    from mlcli.data.check.doctor import examine

    return examine(config.data, regression=config.task == "regression")


def _described(data: Any) -> str:
    """`folder (photos/)`"""
    origin = getattr(data, "file", None) or getattr(data, "root", None) or "included"
    return f"{data.name} ({origin})"


def _report(config: Path, overrides: list[str], examination: "Examination", verdict: str) -> dict[str, Any]:
    from dataclasses import asdict

    from mlcli import __version__

    return {
        "mlcli": __version__,
        "config": str(config),
        "overrides": overrides,
        "verdict": verdict,
        "findings": [asdict(finding) for finding in examination.ordered()],
        **examination.figures,
    }


def _save(folder: Path, report: dict[str, Any], sheets: list["Sheet"]) -> list[Path]:
    """The report and the pictures, each written whole or not at all. Returns the pictures' paths."""
    from mlcli.files import cannot_write, write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHEETS:
            (folder / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_atomically(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    paths = []
    for sheet in sheets:
        content = io.BytesIO()
        sheet.image.save(content, "png")
        paths.append(folder / f"{sheet.name}.png")
        write_atomically(paths[-1], content.getvalue())
    return paths
