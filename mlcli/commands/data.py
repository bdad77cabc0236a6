"""`mlcli data`: what is wrong with a data set, and data from one format to another."""

import json
from dataclasses import asdict
from pathlib import Path

from mlcli.commands.common import load_experiment, refuse_input, write_file, write_picture
from mlcli.errors import ConfigError, ExitCode
from mlcli.experiment import Converter
from mlcli.files import refuse_links, remove
from mlcli.text import command_line, without_secrets
from mlcli.version import __version__


def run_check(
    config: Path | None, overrides: list[str], *, as_json: bool = False, root: Path = Path("runs")
) -> ExitCode:
    """Print everything that is odd about the data; write it with pictures under `<root>/data-check/<name>/`.

    Returns DATA if there is an error among the findings, OK otherwise. Raises UserError.
    """
    experiment = load_experiment("data check", config, overrides)

    from mlcli.data.check.examination import page, verdict
    from mlcli.engine.run import check_writable

    check_writable(root)
    examination = experiment.builder.examine(experiment.config)
    report = {
        "mlcli": __version__,
        "config": str(config),
        "overrides": overrides,
        "verdict": verdict(examination),
        "findings": [asdict(finding) for finding in examination.ordered()],
        **examination.figures,
    }
    folder = root / "data-check" / experiment.name
    refuse_links(folder.parent, folder)
    for picture in folder.glob("*.png"):  # of an earlier examination, which may have found more
        remove(picture)
    written = write_file(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    pictures = [write_picture(folder / f"{sheet.name}.png", sheet.image) for sheet in examination.sheets]
    has_errors = examination.count("error") > 0
    if as_json:
        print(json.dumps(report | {"pictures": pictures}, indent=2))
    else:
        command = "data check" if has_errors else "train"
        sheets = zip(pictures, examination.sheets, strict=True)
        saved = [
            *(("pictures", f"{path}   {sheet.shows}") for path, sheet in sheets),
            ("report", written),
            ("next", command_line(command, config, *overrides)),
        ]
        data = experiment.plain()["data"]
        origin = without_secrets(data.get("file") or data.get("root") or "included")
        print(page(examination, f"{data['name']} ({origin})", saved))
    return ExitCode.DATA if has_errors else ExitCode.OK


def run_convert(config: Path, target: Path | None, to: str = "", shard_size: str = "") -> None:
    """Write the data of an experiment in another format. Raises UserError."""
    experiment = load_experiment("data convert", config, [])
    if target is None:
        fix = command_line("data convert", config, "converted/")
        raise ConfigError("where to?", where="mlcli data convert", fix=fix)
    if not isinstance(experiment.builder, Converter):
        what = f"only pictures are converted, and this is a {experiment.config.task}"
        raise ConfigError(what, where=f"task in {config}", fix="give the YAML of pictures")
    shard_bytes = None
    if shard_size:
        from mlcli.data.sources.shard_writer import read_bytes

        shard_bytes = read_bytes(shard_size)
    refuse_input("DIR", target, [config])
    print("\n".join(experiment.builder.convert(experiment.config, to, target, shard_bytes)))
