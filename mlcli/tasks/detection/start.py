"""`mlcli init` for detection: a built-in data set. Annotations are not recognised yet."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlcli.data.draft import Draft
    from mlcli.data.survey import Place

TEMPLATES: Mapping[str, Path] = {path.stem: path for path in Path(__file__).with_name("templates").glob("*.yaml")}


def propose(place: "Place") -> "Draft | None":
    """Return None: no form of annotations is recognised."""
    return None
