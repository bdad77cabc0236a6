"""Scores of classical models on the data of a run, so that its own means something; kept per data set.

Every baseline answers the same split as the run, test where there is one. Bounded in time: fewer training rows for slow
models, images made smaller; what was left out is noted with the score.
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from mlcli.engine.documents import MOST_BYTES
from mlcli.engine.run import RunFolder
from mlcli.errors import OutputError
from mlcli.files import write_atomically
from mlcli.reading import read_file
from mlcli.report import classical

if TYPE_CHECKING:
    from mlcli.engine.contract import DataSource, Info, Samples, Task

BUDGET_S = 20.0
"""Seconds that all baselines of a data set may take together, on one core, reading included."""
READING_SHARE = 0.25
"""Part of the budget for decoding image files; data in memory take none of it."""
PATIENCE = 2.0
"""Budgets after which the model under way is given up and no other begun: a machine that is busy, or slow."""
MOST_SCORED = 10_000
"""Samples of the split that are answered: enough for a standard error of half a percent."""
FEWEST_ROWS, FEWEST_PER_CLASS = 200, 5
"""Rows a slow model must be able to afford, or it is left out: on fewer of many it would only look bad."""
FORMAT = 3
"""Raised when the cache's files or what they mean change."""


@dataclass(frozen=True)
class Baseline:
    """One classical model: its scores by metric, the rows it was fitted on, what cross-validation chose."""

    name: str
    scores: dict[str, float]
    rows: int
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Baselines:
    """Scores of classical baselines for comparison with a run.

    split: that was answered, `samples` of its `samples_there`; rows_there: of the training split; notes: for people.
    The first entry is the trivial one: the most frequent class, or the mean. complete: no model was left out for want
    of time, so that another day would bring the same. left_out: models that were not fitted, too slow or for want of
    time: they might have been better than any entry.
    """

    split: str
    samples: int
    samples_there: int
    rows_there: int
    entries: tuple[Baseline, ...]
    notes: tuple[str, ...] = ()
    complete: bool = True
    left_out: tuple[str, ...] = ()

    def best(self, metric: str, direction: str) -> Baseline | None:
        """The best entry by this metric ("max" or "min" is better); None if they do not have it."""
        known = [entry for entry in self.entries if metric in entry.scores]
        sign = 1 if direction == "max" else -1
        return max(known, key=lambda entry: sign * entry.scores[metric]) if known else None


def baselines(
    source: "DataSource",
    data: dict[str, Any],
    cache: Path,
    budget_s: float = BUDGET_S,
    say: Callable[[], None] = lambda: None,
) -> Baselines | None:
    """Return the classical models' scores for a data set; None where no split can be scored.

    data: the section of the configuration; cache: folder in which they are kept, such as
    `<root of runs>/.cache/baselines`; say: called before they are fitted anew. Raises DataError if samples cannot be
    read.
    """
    split = next((name for name in ("test", "val") if name in source.splits), None)
    if split is None:
        return None
    path = cache / f"{fingerprint(source, data, split, budget_s)}.json"
    kept = read_baselines(path)
    if kept is None:
        say()
        kept = measure_baselines(source.info, source.splits["train"], source.splits[split], split, budget_s)
        if kept.complete:
            with suppress(OSError, OutputError):  # one that cannot be stored only costs the time again
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(asdict(kept), indent=1).encode())
    return kept


def write_baselines(task: "Task", run: RunFolder, say: Callable[[str], None] = lambda text: None) -> None:
    """Put baselines.json into a run folder, if there are baselines for its task. Raises DataError or OutputError.

    say: called with a message before they are fitted, which takes a while.
    """
    from mlcli.engine.contract import HasBaselines

    if not isinstance(task, HasBaselines):
        return
    words = (
        f"comparing with simple models, about {BUDGET_S:.0f} s and never much more than {PATIENCE * BUDGET_S:.0f} "
        "(train.baselines=false leaves them out)"
    )
    cache = run.path.parent.parent / ".cache" / "baselines"
    found = baselines(task.baseline_source, run.config_plain()["data"], cache, say=lambda: say(words))
    if found:
        run.write_text("baselines.json", json.dumps(asdict(found), indent=1) + "\n")


def measure_baselines(
    info: "Info", train: "Samples", asked: "Samples", split: str, budget_s: float = BUDGET_S
) -> Baselines:
    """Fit the models on `train` and score them on `asked`, samples of `split`."""
    until = time.monotonic() + PATIENCE * budget_s
    trivial, *models = classical.FOR_CLASSES if info.class_names else classical.FOR_NUMBERS
    features = math.prod(classical.input_shape(info))
    affordable = {model.name: model.rows(budget_s, features, info.num_classes) for model in models}
    whole, truth = _problem(info, train, asked, max(affordable.values()), READING_SHARE * budget_s)
    everything = replace(whole, inputs=whole.inputs[:0], targets=train.targets.numpy())  # it looks at targets only
    entries, too_slow, no_time = [_entry(trivial, everything, truth)], [], []
    with warnings.catch_warnings(action="ignore"):  # one that has not converged within its bound is still a baseline
        for model in models:
            rows = min(affordable[model.name], len(whole.targets))
            if rows < len(train) and rows < max(FEWEST_ROWS, FEWEST_PER_CLASS * info.num_classes):
                too_slow.append(model.name)
            else:
                part = replace(whole, inputs=whole.inputs[:rows], targets=whole.targets[:rows], until=until)
                try:
                    part.go_on()
                    entries.append(_entry(model, part, truth))
                except classical.OutOfTimeError:
                    no_time.append(model.name)
    notes = []
    if (shape := classical.input_shape(info)) != info.input_shape:
        notes.append(f"images reduced to {shape[2]}x{shape[1]} pixels for the baselines")
    if too_slow:
        notes.append(f"left out, too slow for so many inputs and classes: {', '.join(too_slow)}")
    if no_time:
        notes.append(f"left out, the machine was too busy or slow: {', '.join(no_time)}")
    return Baselines(
        split, len(truth), len(asked), len(train), tuple(entries), tuple(notes), not no_time, (*too_slow, *no_time)
    )


def _problem(
    info: "Info", train: "Samples", asked: "Samples", most: int, reading_s: float
) -> tuple[classical.Problem, np.ndarray]:
    """At most `most` training rows and MOST_SCORED to answer, read in about that time; and the truth of the latter."""
    import torch

    is_classes, targets, truth = bool(info.class_names), train.targets.numpy(), asked.targets.numpy()
    taken = classical.readable(train, min(most, len(train)), reading_s / 2)
    answers = classical.readable(asked, min(MOST_SCORED, len(asked)), reading_s / 2)
    rows, answered = (classical.spread(of, n, is_classes) for of, n in ((targets, taken), (truth, answers)))
    inputs, answer_to = classical.inputs_of(info, train, rows), classical.inputs_of(info, asked, answered)
    threads = torch.get_num_threads()
    return classical.Problem(inputs, targets[rows], answer_to, is_classes, threads=threads), truth[answered]


def _entry(model: classical.Classical, problem: classical.Problem, truth: np.ndarray) -> Baseline:
    began = time.monotonic()
    answers, note = model.fit(problem)
    scores = class_scores(truth, answers) if problem.is_classes else number_scores(truth, answers)
    return Baseline(model.name, scores, len(problem.targets), round(time.monotonic() - began, 3), note)


def class_scores(truth: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """Under the names that `ClassificationMetrics` gives them, and meaning the same."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(truth, answers, average="macro", zero_division=0)
    accuracy = float((truth == answers).mean())
    return {"accuracy": accuracy, "macro_precision": float(precision), "macro_recall": float(recall),
            "macro_f1": float(f1)}  # fmt: skip


def number_scores(truth: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """Under the names that `RegressionMetrics` gives them, in the target's own unit."""
    from sklearn.metrics import r2_score

    miss = answers.astype(np.float64) - truth
    r2 = float(r2_score(truth, answers)) if len(truth) > 1 else 0.0
    return {"mae": float(np.abs(miss).mean()), "rmse": float(np.sqrt((miss**2).mean())), "r2": r2}


def fingerprint(source: "DataSource", data: dict[str, Any], split: str, budget_s: float) -> str:
    """Changes with everything the scores depend on: the data, how they are divided, and what fits the models."""
    import sklearn

    digest = hashlib.sha256()
    sizes = {name: len(samples) for name, samples in source.splits.items()}
    about = [FORMAT, data, source.info.to_plain(), sizes, split, budget_s, sklearn.__version__]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name in ("train", split):
        samples = source.splits[name]
        digest.update(samples.targets.numpy().tobytes())
        some = np.unique(np.linspace(0, len(samples) - 1, 16).astype(np.int64))
        digest.update(samples.read(some).numpy().tobytes())
    return digest.hexdigest()[:32]


def read_baselines(path: Path) -> Baselines | None:
    """Read them from a run folder or the cache; None if there is no such file, or it is damaged."""
    try:
        return TypeAdapter(Baselines).validate_json(read_file(path, MOST_BYTES))
    except (OSError, ValueError):
        return None
