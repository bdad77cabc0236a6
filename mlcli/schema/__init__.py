"""Strict YAML: one typed, frozen object from a file, or every mistake in it at once with file, line and column.

yaml12.py reads the text, read.py applies `key=value` from the command line and has pydantic check the result,
explain.py and words.py put its errors in plain words, places.py points at the spot. No torch in here.
"""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mlcli.text import as_text

LEAST, MOST = 1e-30, 1e15
"""Size of any number with a fraction but 0: float32, in which training computes, holds the product of two of them."""


class Strict(BaseModel):
    """Base of all config classes: unknown keys are errors, numbers are moderate, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    holds_data: ClassVar[frozenset[str]] = frozenset()
    """Keys whose numbers are values of the data, and may be any."""

    @field_validator("*")
    @classmethod
    def is_moderate(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers that computing with would bring to infinity or to 0. Raises ValueError."""
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        if info.field_name not in cls.holds_data:
            for number in numbers:
                if isinstance(number, float) and number and not LEAST <= abs(number) <= MOST:
                    what = "large" if abs(number) > MOST else "small"
                    raise ValueError(f"{number:g} is too {what}: numbers here are 0, or in size {LEAST:g} to {MOST:g}")
        return value


def _from_the_yaml(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path())
    try:
        path = Path(os.path.abspath(base / path.expanduser()))  # absolute() would leave a/../b in every message
    except RuntimeError:  # ~name of no user of this machine
        raise ValueError(f"there is no home directory for {path.parts[0]}") from None
    if as_text(path) != str(path):  # no file of a run could say where its data are
        raise ValueError(f"the path {as_text(path)} is not UTF-8 text; rename the folder")
    return path


Address = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+")]
"""Of something on a network: https://host/folder, s3://bucket/folder."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""Of random numbers, as NumPy takes it."""
ConfigPath = Annotated[Path, AfterValidator(_from_the_yaml)]
"""A path in a YAML: relative to the folder the YAML stands in (in an override, too), absolute once read."""
