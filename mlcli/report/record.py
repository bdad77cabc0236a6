"""All files of a run folder, read leniently: what is missing or damaged is empty, never an error."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from mlcli.engine.documents import Document, Entry, EvaluationFile, LayerLook, Summary, read_document, read_entries
from mlcli.engine.run import RunFolder
from mlcli.errors import UserError
from mlcli.report.baselines import Baselines, read_baselines
from mlcli.schema.yaml12 import read_text
from mlcli.show.details import Evaluation
from mlcli.text import number

SPLITS = ("test", "val", "train")
"""Those a score is shown of, the one that counts first."""
SHARES = ("accuracy", "top5_accuracy", "macro_precision", "macro_recall", "macro_f1")
"""Metrics that are, or behave like, a share of samples that went right."""
MOST_LINES = 4_000
"""Of metrics.jsonl and layers.jsonl, of each kind: more than a chart has pixels."""

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """The files of a run folder as plain data.

    entries: lines of metrics.jsonl; config: the resolved YAML, and its text; summary: summary.json; evaluations: by
    split; layers: statistics of the layers, oldest first; pictures: PNG files by name.
    """

    name: str
    path: Path
    status: dict[str, Any]
    entries: list[dict[str, Any]]
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    summary: dict[str, Any]
    evaluations: dict[str, Evaluation]
    baselines: Baselines | None
    layers: list[dict[str, Any]]
    pictures: list[Path]

    @classmethod
    def read(cls, run: RunFolder) -> "Record":
        """Read what is there."""
        path = run.path
        evaluations = {split: _document(path / f"evaluation-{split}.json", EvaluationFile) for split in SPLITS}
        return cls(
            name=run.name,
            path=path,
            status=_or(run.status, {}),
            entries=_or(lambda: read_entries(path / "metrics.jsonl", Entry, MOST_LINES), []),
            config=_or(run.config_plain, {}),
            config_text=_or(lambda: read_text(path / "resolved.yaml"), ""),
            environment=run.environment_or_empty(),
            summary=_document(path / "summary.json", Summary),
            evaluations={split: cast(Evaluation, found) for split, found in evaluations.items() if found},
            baselines=read_baselines(path / "baselines.json"),
            layers=_or(lambda: read_entries(path / "layers.jsonl", LayerLook, MOST_LINES), []),
            pictures=sorted((path / "pictures").glob("*.png")),
        )

    @property
    def task(self) -> str:
        return str(self.status.get("task") or self.config.get("task") or "")

    @property
    def data_facts(self) -> dict[str, Any]:
        """Facts about the data, such as kind and target (see `mlcli.data.info.DataInfo`); empty if unknown."""
        return mapping(mapping(self.summary.get("facts")).get("data"))

    @property
    def best(self) -> dict[str, Any]:
        """metric, split, direction, value, epoch and step of the best evaluation; empty before the first."""
        best = mapping(self.status.get("best"))
        return best if best.get("value") is not None else {}

    @property
    def metric(self) -> str:
        """The metric that decided what is best."""
        return str(self.best.get("metric", "loss"))

    @property
    def direction(self) -> str:
        return str(self.best.get("direction", "min" if self.metric in ("loss", "rmse", "mae", "ece") else "max"))

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The best model's scores by split, as far as they were measured."""
        known = {split: _numbers(values) for split, values in mapping(self.status.get("scores")).items()}
        for split, found in self.evaluations.items():
            if split not in known and str(found.get("checkpoint", "best.ckpt")) == "best.ckpt":
                known[split] = _numbers(found.get("metrics"))
        if not known and self.best:  # stopped before the end: what it had reached
            known[str(self.best["split"])] = {self.metric: float(self.best["value"])}
        return {split: values for split, values in known.items() if values}

    @property
    def split(self) -> str:
        """The split whose score is the headline: test if it was measured, else what was watched."""
        return next((split for split in SPLITS if split in self.scores), "val")

    @property
    def detail(self) -> Evaluation:
        """The evaluation whose details are shown, of the headline's split if there is one."""
        order = (self.split, *SPLITS)
        return next((self.evaluations[split] for split in order if split in self.evaluations), Evaluation())

    @property
    def detail_split(self) -> str:
        return str(self.detail.get("split", self.split))

    def samples(self, split: str) -> int | None:
        """Samples in a split, if any file says so."""
        count = mapping(self.summary.get("splits")).get(split)
        count = count if count is not None else self.evaluations.get(split, {}).get("samples")
        if count is None and self.baselines and self.baselines.split == split:
            count = self.baselines.samples_there
        return int(count) if isinstance(count, int | float) else None


def _document(path: Path, kind: type[Document]) -> dict[str, Any]:
    return _or(lambda: read_document(path, kind), {})


def _numbers(values: Any) -> dict[str, float]:
    numbers = {str(name): v for name, v in mapping(values).items() if is_number(v) and not isinstance(v, bool)}
    return {name: float(value) for name, value in numbers.items()}


def _or(read: Callable[[], T], otherwise: T) -> T:
    """Return what was read, or something else where a file is missing or damaged."""
    try:
        return read()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError):
        return otherwise


def score_text(metric: str, value: float | None) -> str:
    """A score in a sentence: 97.8 % for shares of samples, otherwise as `number`."""
    return f"{100 * value:.1f} %" if metric in SHARES and value is not None else number(value)


def in_words(name: str) -> str:
    """Return the name of a metric or a column as words: macro_f1 -> macro f1."""
    return name.replace("_", " ")


def is_number(value: Any) -> bool:
    """Return whether a value of a file is a number."""
    return isinstance(value, int | float)


def mapping(value: Any) -> dict[str, Any]:
    """Return a value of a file that should be a mapping; an empty one if it is something else."""
    return value if isinstance(value, dict) else {}
