"""`mlcli init` for detection: a built-in data set, and a YAML for annotated pictures in any format that is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlcli.data.draft import Draft
    from mlcli.data.survey import Place

TEMPLATES: Mapping[str, Path] = {path.stem: path for path in Path(__file__).with_name("templates").glob("*.yaml")}


def propose(place: "Place") -> "Draft | None":
    """Return a YAML for annotated pictures; None for anything else.

    Raises DataError if they cannot be read, or nothing can be learned from them.
    """
    from mlcli.tasks.detection.proposal import proposal

    return proposal(place)
