"""Going on with a run: what may have changed since it was started, and what that does to the schedule."""

from typing import Any

from mlcli.errors import CheckpointError, ConfigError

MAY_CHANGE = (
    "train.epochs",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoints",
    "train.early_stopping",
    "train.device",
    "train.threads",
    "loader",
    "data.root",
    "data.file",
    "data.download",
)
"""Keys that leave the meaning of the steps already taken as it is. `loader.sampler` is the exception, refused below."""


def flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as {"optimizer.lr": 0.1, ...}; lists are values."""
    if not isinstance(plain, dict):
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{"optimizer.lr": (old, new)} for every key that differs; a key one side lacks is None there."""
    a, b = flatten(old), flatten(new)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def refuse_other_experiment(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise ConfigError if a resumed run would no longer be the same experiment."""
    changed = {
        key: values
        for key, values in differences(old, new).items()
        if not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE) or key == "loader.sampler"
    }
    if changed:
        shown = "; ".join(f"{key} was {was!r}, is {now!r}" for key, (was, now) in list(changed.items())[:4])
        raise ConfigError(f"the config differs from the run's: {shown}", where="--resume",
                          fix="take these keys back, or start a new run without --resume")  # fmt: skip


def refuse_other_data(saved: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise CheckpointError if the data found now are not what the checkpoint's model was made for."""
    for key in ("class_names", "input_shape", "target"):
        was, now = saved["data"].get(key), found["data"].get(key)
        if was != now:
            raise CheckpointError(f"the data have changed: {key} was {_short(was)}, is {_short(now)}",
                                  where="data", fix="restore the data, or start a new run")  # fmt: skip


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
