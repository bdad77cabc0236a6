"""`mlcli report`: the page about a run, written again from its folder."""

from pathlib import Path


def run(run: str, root: Path) -> None:
    """Write report.html into a run folder and say where it lies. Raises CheckpointError if there is no such run."""
    from mlcli.engine.run import open_run
    from mlcli.report.page.write import write_report
    from mlcli.text import shown

    print(f"written: {shown(write_report(open_run(run, root)))}")
