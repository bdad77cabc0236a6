"""`mlcli train`: from a YAML file to a trained and measured model."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.commands.common import find_run, load_experiment, say
from mlcli.commands.typed import unfinished
from mlcli.engine.launcher import launch_here, number_of_processes
from mlcli.engine.processes import end_with_parent, hushed, place
from mlcli.errors import ConfigError, DivergedError, ExitCode
from mlcli.experiment import Experiment
from mlcli.text import command_line, shown

if TYPE_CHECKING:
    from mlcli.engine.run import RunFolder

AUTO = "auto"


def run(
    config: Path | None,
    overrides: list[str],
    *,
    name: str | None,
    resume: str | None,
    root: Path,
    devices: str | None = None,
) -> int:
    """Train, measure the best model on the test split, print what came out.

    With `resume` alone, the YAML is the one the run was started with; with "auto", the newest run of that name goes on,
    or a first one begins. devices: how many processes train together on this machine, or "auto"; None for what the
    environment says, as torchrun and srun do. Everything that can be refused is refused before a run folder is made.
    Returns an exit code: OK, or INTERRUPTED / TERMINATED for a run that was stopped and can be resumed. Raises
    UserError.
    """
    if name is not None and resume not in (None, AUTO):
        raise ConfigError("a resumed run keeps its name", where="--name", fix="leave --name out")
    if name is not None and (name in ("", ".", "..") or Path(name).name != name or "\\" in name):
        raise ConfigError(f"'{name}' cannot name a folder of runs", where="--name", fix="a name without slashes")
    if resume is not None and not resume.strip():
        raise ConfigError("the name of the run to go on with is empty", where="--resume", fix=unfinished(root))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)
    with hushed(place()):
        folder = None if resume in (None, AUTO) else find_run(resume, root)
        if config is None and folder is not None:
            experiment = Experiment.of_run(folder.path, overrides)
        else:
            experiment = load_experiment("train", config, overrides)
        if resume == AUTO:
            from mlcli.engine.run import list_runs

            runs = reversed(list_runs(root / (name or experiment.name)))
            folder = next((run for run in runs if any(run.checkpoints.glob("step-*.ckpt"))), None)
            if folder and folder.status().get("state") == "finished":
                print(f"run        {shown(folder.path)} is complete; nothing to do")
                return ExitCode.OK
        if devices is not None and (count := number_of_processes(devices, place())) > 1:
            from mlcli.engine.step import parts_of_step

            if experiment.config.train.batch_size != "auto":
                parts_of_step(experiment.config.train, count)  # too small a batch is told before they are started
            return launch_here(count)
        return train_experiment(experiment, name=name, resume=str(folder.path) if folder else None, root=root)[0]


def train_experiment(
    experiment: Experiment, *, name: str | None, resume: str | None, root: Path
) -> "tuple[ExitCode, RunFolder]":
    """Train in a new run folder or in the one that `resume` names, and print what came out; see `run`."""
    from mlcli.engine.launch import launch, train
    from mlcli.machine.bench.learner import choose_batch_size
    from mlcli.report.baselines import write_baselines
    from mlcli.report.page.write import write_report
    from mlcli.report.summary import closing_lines

    with launch(
        experiment, root, name=name, resume=resume, say=say, choose_batch_size=choose_batch_size
    ) as (training, batches):  # fmt: skip
        try:
            ended = train(training, batches)
        except DivergedError:
            if training.runtime.ranks.is_first:
                write_report(training.run)
            raise
        if not training.runtime.ranks.is_first:
            return training.stop.exit_code if ended.outcome == "interrupted" else ExitCode.OK, training.run
        if ended.outcome == "interrupted":
            write_report(training.run)
            again = command_line("train", "--resume", shown(training.run.path))
            print(f"\nstopped after step {training.state.progress.step}; to go on: {again}")
            return training.stop.exit_code, training.run
        # The run is complete; what goes wrong from here on does not take that back.
        code = ExitCode.OK
        if training.settings.train.baselines:
            try:
                write_baselines(training.task, training.run, say=lambda text: say([("baselines", text)]))
            except (KeyboardInterrupt, SystemExit) as stopped:
                code = ExitCode.INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else ExitCode.TERMINATED
                say([("baselines", "left out, stopped by a signal; the run itself is complete")])
        write_report(training.run)
        print(closing_lines(training, ended.outcome, ended.scores, ended.seconds))
        return code, training.run
