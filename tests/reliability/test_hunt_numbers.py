"""Every number that a YAML can hold, as large and as small as numbers get: used, or refused in words."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mlcli.experiment import config_type
from mlcli.schema.words import Slot, slots
from tests.reliability import hunt

NUMBERS = ["9223372036854775807", "2147483647", "1000000000000", "1" + "0" * 30, "1000001", "1e308", "1e-308", "5e-324"]
YAMLS = {"classification": "mlp.yaml", "detection": "detection.yaml", "regression": "regression.yaml"}
NEEDED: dict[str, Any] = {
    "lr": 0.01, "root": "photos", "file": "table.csv", "target": "y", "channels": 4, "features": 4, "keep": 1,
    "images": "boxes", "annotations": "boxes/boxes.csv", "arch": "resnet18", "run": "runs/detection/only",
}  # fmt: skip
"""Values for the keys that have no default."""
SECONDS = 2.0
"""After which a training is stopped, as a user would: there may be very many epochs."""


def numeric_keys(section: type[BaseModel], at: str, needs: str = "") -> Iterator[tuple[str, str, str, Slot]]:
    """Each key that takes a number: where its section stands, what else that needs, the key, and what it takes."""
    for key, slot in slots(section).items():
        place = f"{at}.{key}" if at else key
        for value in slot.values:
            inner = value.element if value.is_list or value.is_mapping else value
            if inner.takes(int, float) and at:
                yield at, needs, key, value
            for name, kind in inner.sections.items():
                required = [need for need, field in kind.model_fields.items() if field.is_required() and need != "name"]
                needed = {"name": name} | {need: NEEDED[need] for need in required if need in NEEDED}
                text = ", ".join(f"{need}: {given}" for need, given in needed.items()) if name else ""
                yield from numeric_keys(kind, f"{place}.0" if value.is_list else place, text)


def overrides() -> list[tuple[str, tuple[str, ...]]]:
    """YAMLs, and overrides that put a number at one key; all there are."""
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for task, yaml in YAMLS.items():
        for at, needs, key, slot in numeric_keys(config_type(task), ""):
            for number in NUMBERS:
                value = f"[{number}]" if slot.is_list else f"{{a: {number}}}" if slot.is_mapping else number
                listed = at.endswith(".0")
                section = f"{at.removesuffix('.0')}={'[' * listed}{{{needs}}}{']' * listed}"
                found[yaml, ((section,) if needs else ()) + (f"{at}.{key}={value}",)] = None
    return [*found]


def stop_later() -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)


def test_any_number_is_used_or_refused(world: Path):
    everything = overrides()
    assert len(everything) > 500
    random.Random(0).shuffle(everything)
    faults, tried = [], hunt.cases(5, soak=len(everything))
    for case in tried:
        yaml, more = everything[case]
        fault = hunt.fault_of(world, "train", yaml, "train.epochs=1", *more, prepare=stop_later,
                              allowed=(0, 2, 3, 4, 5, 8, 143))  # fmt: skip
        if fault:
            faults.append(f"MLCLI_CASE={case}: {fault}")
    hunt.tell(faults, len(tried))
