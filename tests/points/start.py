"""What `mlcli init` offers of it: a template, and a YAML for a text file of pairs of numbers."""

from collections.abc import Mapping
from pathlib import Path

from mlcli.data.draft import Draft
from mlcli.data.survey import Place

TEMPLATES: Mapping[str, Path] = {"circle": Path(__file__).with_name("circle.yaml")}


def propose(place: Place) -> Draft | None:
    if place.path.suffix != ".points":
        return None
    count = len(place.path.read_text().splitlines())
    facts = [f"{count} points.", "WARNING: these are few points."]
    return Draft(facts, f"task: points\ndata: {{name: circle, samples: {count}}}\t# as many\nmodel: {{name: tiny}}")
