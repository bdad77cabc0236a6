"""What classical models score on the data of a run, so that its score means something; kept per data set.

Every baseline answers the same split as the run, test where there is one. Bounded in time: fewer training rows for slow
models, images made smaller; what was left out stands beside the score.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcli.engine.files import write_atomically
from mlcli.engine.run import RunFolder
from mlcli.errors import OutputError

if TYPE_CHECKING:
    from mlcli.data.info import DataInfo
    from mlcli.data.source import Samples
    from mlcli.report.classical import Classical

BUDGET_S = 20.0
"""Seconds that all baselines of a data set may take together, on one core, reading included."""
READING_SHARE = 0.25
"""Part of the budget for decoding image files; data in memory take none of it."""
MOST_SCORED = 10_000
"""Samples of the split that are answered: enough for a standard error of half a percent."""
FEWEST_ROWS, FEWEST_PER_CLASS = 200, 5
"""Rows a slow model must be able to afford, or it is left out: on fewer of many it would only look bad."""
LARGEST_SIDE, SMALLEST_SIDE, PIXELS_TIMES_CLASSES = 16, 8, 20_000
"""Pixels of an image's sides as the classical models see it; smaller where many classes make them slow."""
CHUNK = 256
FORMAT = 1
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
    """Classical models beside which a run is to be seen.

    split: that was answered, `samples` of its `samples_there`; rows_there: of the training split; notes: for people.
    The first entry is the trivial one: the most frequent class, or the mean.
    """

    split: str
    samples: int
    samples_there: int
    rows_there: int
    entries: tuple[Baseline, ...]
    notes: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As lists, strings and numbers, for baselines.json."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Baselines":
        """`Baselines.from_plain(b.to_plain()) == b`. Raises TypeError, KeyError or ValueError for anything else."""
        entries = tuple(
            Baseline(str(e["name"]), {str(k): float(v) for k, v in e["scores"].items()}, int(e["rows"]),
                     float(e["seconds"]), str(e["note"]))
            for e in plain["entries"]
        )  # fmt: skip
        samples, samples_there, rows_there = (int(plain[key]) for key in ("samples", "samples_there", "rows_there"))
        notes = tuple(map(str, plain["notes"]))
        return cls(str(plain["split"]), samples, samples_there, rows_there, entries, notes)

    def best(self, metric: str, direction: str) -> Baseline | None:
        """The best entry by this metric ("max" or "min" is better); None if they do not have it."""
        known = [entry for entry in self.entries if metric in entry.scores]
        sign = 1 if direction == "max" else -1
        return max(known, key=lambda entry: sign * entry.scores[metric]) if known else None


def baselines(
    task: Any, cache: Path, budget_s: float = BUDGET_S, say: Callable[[], None] = lambda: None
) -> Baselines | None:
    """The classical models' scores for the data of a task; None for detection, and where no split can be scored.

    task: a task that has its `source` and `config.data`; cache: folder in which they are kept, such as
    `<root of runs>/.cache/baselines`; say: called before they are fitted anew. Raises DataError if samples cannot be
    read.
    """
    source = getattr(task, "source", None)
    if source is None or source.info.target == "boxes":
        return None
    split = next((name for name in ("test", "val") if name in source.splits), None)
    if split is None:
        return None
    path = cache / f"{fingerprint(task, split, budget_s)}.json"
    kept = _kept(path)
    if kept is None:
        say()
        kept = measure(source.info, source.splits["train"], source.splits[split], split, budget_s)
        _keep(path, kept)
    return kept


def write_baselines(task: Any, run: RunFolder, say: Callable[[str], None] = lambda text: None) -> None:
    """Put baselines.json into a run folder, if there are baselines for its data. Raises DataError or OutputError.

    say: is told beforehand if they have to be fitted, which takes a while.
    """
    words = f"comparing with simple models, about {BUDGET_S:.0f} s at most (train.baselines=false leaves them out)"
    found = baselines(task, run.path.parent.parent / ".cache" / "baselines", say=lambda: say(words))
    if found:
        run.write_text("baselines.json", json.dumps(found.to_plain(), indent=1) + "\n")


def measure(info: "DataInfo", train: "Samples", asked: "Samples", split: str, budget_s: float = BUDGET_S) -> Baselines:
    """Fit on `train`, score on `asked`."""
    import torch

    from mlcli.report.classical import FOR_CLASSES, FOR_NUMBERS, Problem, quiet

    began = time.monotonic()
    is_classes = bool(info.class_names)
    models = FOR_CLASSES if is_classes else FOR_NUMBERS
    side = _side(info)
    features = int(np.prod(info.input_shape)) if side is None else info.input_shape[0] * side[0] * side[1]
    affordable = {model.name: model.rows(budget_s, features, info.num_classes) for model in models}
    most = max(affordable[model.name] for model in models[1:])
    train_rows = _spread(train.targets.numpy(), _readable(train, min(most, len(train)), budget_s), is_classes)
    asked_rows = _spread(asked.targets.numpy(), _readable(asked, min(MOST_SCORED, len(asked)), budget_s), is_classes)
    inputs, targets = _inputs(info, train, train_rows, side), train.targets.numpy()[train_rows]
    answers_to, truth = _inputs(info, asked, asked_rows, side), asked.targets.numpy()[asked_rows]
    entries, left_out = [], []
    with quiet():
        for model in models:
            rows = len(targets) if model is models[0] else min(affordable[model.name], len(targets))
            too_few = rows < len(targets) and rows < max(FEWEST_ROWS, FEWEST_PER_CLASS * info.num_classes)
            if too_few or time.monotonic() - began > 2 * budget_s:
                left_out.append(model.name)
                continue
            problem = Problem(inputs[:rows], targets[:rows], answers_to, is_classes, threads=torch.get_num_threads())
            entries.append(_entry(model, problem, truth))
    notes = [] if side is None or side == info.input_shape[1:] else [
        f"images reduced to {side[1]}x{side[0]} pixels for the baselines"
    ]  # fmt: skip
    notes += [f"left out, too slow here: {', '.join(left_out)}"] if left_out else []
    return Baselines(split, len(truth), len(asked), len(train), tuple(entries), tuple(notes))


def _entry(model: "Classical", problem: Any, truth: np.ndarray) -> Baseline:
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


def fingerprint(task: Any, split: str, budget_s: float) -> str:
    """Changes with everything the scores depend on: the data, how they are divided, and what fits the models."""
    import sklearn

    source, digest = task.source, hashlib.sha256()
    data = task.config.data.model_dump(mode="json")
    sizes = {name: len(samples) for name, samples in source.splits.items()}
    about = [FORMAT, data, source.info.to_plain(), sizes, split, budget_s, sklearn.__version__]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name in ("train", split):
        samples = source.splits[name]
        digest.update(samples.targets.numpy().tobytes())
        some = np.unique(np.linspace(0, len(samples) - 1, 16).astype(np.int64))
        digest.update(samples.read(some).numpy().tobytes())
    return digest.hexdigest()[:32]


def _kept(path: Path) -> Baselines | None:
    """What the cache holds; nothing if there is no such file, or it is damaged."""
    try:
        return Baselines.from_plain(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _keep(path: Path, found: Baselines) -> None:
    """Store in the cache; one that cannot be written only costs the time next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found.to_plain(), indent=1).encode())
    except (OSError, OutputError):
        return


def _side(info: "DataInfo") -> tuple[int, int] | None:
    """Height and width of the images given to the models; None for rows of features."""
    if info.kind != "image":
        return None
    channels, height, width = info.input_shape
    fits = (PIXELS_TIMES_CLASSES / (channels * max(1, info.num_classes))) ** 0.5
    side = int(min(LARGEST_SIDE, max(SMALLEST_SIDE, fits)))
    return min(height, side), min(width, side)


def _readable(samples: "Samples", wanted: int, budget_s: float) -> int:
    """How many samples may be read: what is wanted, or less if the files are slow to decode."""
    probe = np.arange(min(32, len(samples)))
    samples.read(probe[:1])  # the first read opens files and loads decoders
    began = time.perf_counter()
    samples.read(probe)
    each_s = (time.perf_counter() - began) / len(probe)
    rows = int(READING_SHARE * budget_s / 2 / max(each_s, 1e-9))
    return wanted if rows >= wanted else max(min(wanted, FEWEST_ROWS), rows // 100 * 100)


def _spread(targets: np.ndarray, count: int, is_classes: bool) -> np.ndarray:
    """`count` positions, int64, in random order but the same each time; any first part has the classes' shares."""
    order = np.random.default_rng(len(targets)).permutation(len(targets))
    if not is_classes:
        return order[:count]
    labels = targets[order]
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.argsort((rank + 0.5) / counts[inverse], kind="stable")][:count]


def _inputs(info: "DataInfo", samples: "Samples", rows: Sequence[int] | np.ndarray, side: Any) -> np.ndarray:
    """Standardised inputs float32 [N, F] as the network sees them, images averaged down to `side`."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from mlcli.models.normalized import Normalized

    normalize, parts = Normalized(torch.nn.Identity(), info), []
    with torch.inference_mode():
        for first in range(0, len(rows), CHUNK):
            part = normalize(samples.read(np.asarray(rows[first : first + CHUNK])))
            parts.append((part if side is None else adaptive_avg_pool2d(part, side)).flatten(1))
    return torch.cat(parts).numpy()
