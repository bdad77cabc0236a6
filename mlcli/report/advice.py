"""Advice after a verdict: one or two changes to the run's config, as one types them."""

import math
from dataclasses import dataclass
from typing import Any

from mlcli.report.evidence import Evidence

MOST = 2
DROPOUT = 0.3
"""Between the 0.2 and 0.5 that Srivastava et al. 2014 use."""
WEIGHT_DECAY = 5e-4
"""Of AlexNet, VGG and ResNet on CIFAR; where there is some already, it is taken times 5."""
LINEAR = ("linear", "perceptron")


@dataclass(frozen=True)
class Advice:
    """override: `key=value` to add to the command, or a command of its own; why: in a few words."""

    override: str
    why: str


def advise(kind: str, e: Evidence) -> tuple[Advice, ...]:
    """Return at most two changes that the config has room for, best first."""
    epochs, seed = _get(e.config, "train.epochs"), _get(e.config, "train.seed")
    longer = [Advice(f"train.epochs={2 * epochs}", "twice as long")] if isinstance(epochs, int) else []
    repeat = [Advice(f"train.seed={seed + 1}", "does it hold with another seed?")] if isinstance(seed, int) else []
    hold_out = [Advice("data.val=0.15", "keep some training samples for validation")]
    lacks_val = e.watched == "train" and _get(e.config, "data.val") == 0
    lr_first = [Advice("mlcli lr-find", "the learning rate first: no other setting matters as much")]
    candidates = {
        "diverged": _calmer(e),
        "too short to tell": longer,
        "still improving": longer,
        "worse than a baseline": [*lr_first, *longer],
        "too noisy to tell": _more_certain(e),
        "overfitting": _regularise(e),
        "underfitting": [
            *(lr_first if _learned_nothing(e) else []),
            *_grow(e),
            *longer,
            Advice("mlcli lr-find", "the learning rate may be too small"),
        ],
        "fit unknown": hold_out if lacks_val else repeat,
        "good fit": repeat,
    }
    return tuple(candidates[kind][:MOST])


def _calmer(e: Evidence) -> list[Advice]:
    lr, found = _get(e.config, "optimizer.lr"), []
    if isinstance(lr, int | float):
        found.append(Advice(f"optimizer.lr={_short(lr / 10)}", "ten times smaller steps"))
    if not _get(e.config, "optimizer.clip_norm"):
        found.append(Advice("optimizer.clip_norm=1", "limit the size of a single step"))
    if not _get(e.config, "schedule.warmup_epochs"):
        found.append(Advice("schedule.warmup_epochs=1", "begin with small steps"))
    return found


def _more_certain(e: Evidence) -> list[Advice]:
    val, seed, found = _get(e.config, "data.val"), _get(e.config, "train.seed"), []
    if isinstance(val, float) and 0 < val < 0.3 and not e.val_given:
        found.append(Advice(f"data.val={_short(min(0.3, 2 * val))}", "evaluate on more samples"))
    if isinstance(seed, int):
        found.append(Advice(f"train.seed={seed + 1}", "the difference to another seed shows how much is chance"))
    return found


def _regularise(e: Evidence) -> list[Advice]:
    found, decay = [], _get(e.config, "optimizer.weight_decay")
    if _get(e.config, "augment") == [] and (e.data.get("kind"), e.data.get("target")) == ("image", "label"):
        found.append(
            Advice("'augment=[{name: random_crop, padding: 2}]'", "each image a little different in each epoch")
        )
    if _get(e.config, "model.dropout") == 0:
        found.append(Advice(f"model.dropout={DROPOUT}", "regularisation: neurons must not rely on each other"))
    if isinstance(decay, int | float):
        stronger = 5 * decay if decay else WEIGHT_DECAY
        found.append(
            Advice(f"optimizer.weight_decay={_short(stronger)}", "regularisation: smaller weights, smoother functions")
        )
    if _get(e.config, "train.early_stopping") is None:
        found.append(Advice("train.early_stopping.patience=5", "stop before it overfits"))
    return found


def _learned_nothing(e: Evidence) -> bool:
    """Return whether a network that could do better answers even its training samples about as guessing would."""
    classes = e.data.get("class_names")
    if e.metric != "accuracy" or e.train is None or not classes or _get(e.config, "model.name") in LINEAR:
        return False
    return e.train < 1.5 / len(classes)


def _grow(e: Evidence) -> list[Advice]:
    found, hidden, width = [], _get(e.config, "model.hidden"), _get(e.config, "model.width")
    if isinstance(hidden, list) and hidden:
        found.append(Advice(f"'model.hidden={[2 * n for n in hidden]}'", "a larger model"))
    elif _get(e.config, "model.name") in LINEAR:
        found.append(Advice("'model={name: mlp}'", "a model that is not linear"))
    elif isinstance(width, int | float) and 2 * width <= 4:
        found.append(Advice(f"model.width={_short(2 * width)}", "a larger model"))
    if isinstance(dropout := _get(e.config, "model.dropout"), float) and dropout > 0:
        found.append(Advice("model.dropout=0", "no regularisation until it fits the training set"))
    return found


def _get(config: dict[str, Any], dotted: str) -> Any:
    """Return the value at a dotted key; None where there is none."""
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
