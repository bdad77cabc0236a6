"""What to try after a verdict: one or two changes to the run's config, as they are typed."""

import math
from dataclasses import dataclass
from typing import Any

from mlcli.report.evidence import Evidence

MOST = 2
DROPOUT = 0.3
"""Between the 0.2 and 0.5 that Srivastava et al. 2014 use."""
WEIGHT_DECAY = 5e-4
"""Of AlexNet, VGG and ResNet on CIFAR; where there is some already, it is taken times 5."""


@dataclass(frozen=True)
class Advice:
    """override: `key=value` to add to the command, or a command of its own; why: in a few words."""

    override: str
    why: str


def advise(kind: str, e: Evidence) -> tuple[Advice, ...]:
    """At most two changes that the config has room for, best first."""
    candidates = {
        "diverged": _calmer,
        "too short to tell": _longer,
        "still improving": _longer,
        "worse than a baseline": _learn_better,
        "too noisy to tell": _more_certain,
        "overfitting": _regularise,
        "underfitting": _grow,
        "good fit": _repeat,
    }[kind](e.config)
    return tuple(candidates[:MOST])


def _calmer(config: dict[str, Any]) -> list[Advice]:
    lr, found = _get(config, "optimizer.lr"), []
    if isinstance(lr, int | float):
        found.append(Advice(f"optimizer.lr={_short(lr / 10)}", "ten times smaller steps"))
    if not _get(config, "optimizer.clip_norm"):
        found.append(Advice("optimizer.clip_norm=1", "no single step may be large"))
    if not _get(config, "schedule.warmup_epochs"):
        found.append(Advice("schedule.warmup_epochs=1", "begin with small steps"))
    return found


def _longer(config: dict[str, Any]) -> list[Advice]:
    epochs = _get(config, "train.epochs")
    return [Advice(f"train.epochs={2 * epochs}", "twice as long")] if isinstance(epochs, int) else []


def _learn_better(config: dict[str, Any]) -> list[Advice]:
    return [Advice("mlcli lr-find", "the learning rate first: no other setting costs so much"), *_longer(config)]


def _more_certain(config: dict[str, Any]) -> list[Advice]:
    val, seed, found = _get(config, "data.val"), _get(config, "train.seed"), []
    if isinstance(val, float) and 0 < val < 0.3:
        found.append(Advice(f"data.val={_short(min(0.3, 2 * val))}", "judge by more samples"))
    if isinstance(seed, int):
        found.append(Advice(f"train.seed={seed + 1}", "what another seed scores tells how much is chance"))
    return found


def _regularise(config: dict[str, Any]) -> list[Advice]:
    found, decay = [], _get(config, "optimizer.weight_decay")
    if _get(config, "augment") == [] and _has_images(config):
        found.append(Advice("'augment=[{name: random_crop, padding: 2}]'", "each image in ever new forms"))
    if _get(config, "model.dropout") == 0:
        found.append(Advice(f"model.dropout={DROPOUT}", "neurons that must not rely on each other"))
    if isinstance(decay, int | float):
        stronger = 5 * decay if decay else WEIGHT_DECAY
        found.append(Advice(f"optimizer.weight_decay={_short(stronger)}", "smaller weights, smoother functions"))
    if _get(config, "train.early_stopping") is None:
        found.append(Advice("train.early_stopping.patience=5", "stop before it learns by heart"))
    return found


def _grow(config: dict[str, Any]) -> list[Advice]:
    found, hidden, width = [], _get(config, "model.hidden"), _get(config, "model.width")
    if isinstance(hidden, list) and hidden:
        found.append(Advice(f"'model.hidden={[2 * n for n in hidden]}'", "a larger set of functions"))
    elif _get(config, "model.name") in ("linear", "perceptron"):
        found.append(Advice("'model={name: mlp}'", "a larger set of functions than straight lines"))
    elif isinstance(width, int | float) and 2 * width <= 4:
        found.append(Advice(f"model.width={_short(2 * width)}", "a larger set of functions"))
    if isinstance(dropout := _get(config, "model.dropout"), float) and dropout > 0:
        found.append(Advice("model.dropout=0", "nothing to regularise yet"))
    return [*found, *_longer(config), Advice("mlcli lr-find", "perhaps the steps are too small")]


def _repeat(config: dict[str, Any]) -> list[Advice]:
    seed = _get(config, "train.seed")
    return [Advice(f"train.seed={seed + 1}", "does it hold with other luck?")] if isinstance(seed, int) else []


def _has_images(config: dict[str, Any]) -> bool:
    tables = ("csv", "xor", "iris", "wine", "breast_cancer", "diabetes")
    return _get(config, "data.name") not in tables and config.get("task") == "classification"


def _get(config: dict[str, Any], dotted: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _short(value: float) -> str:
    """0.0005 -> 5e-4, 0.02 -> 0.02"""
    if value and abs(value) < 1e-2:
        power = math.floor(math.log10(abs(value)))
        return f"{value / 10**power:g}e{power}"
    return f"{value:g}"
