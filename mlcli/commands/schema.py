"""`mlcli schema`: what a configuration may say, as the JSON schema for editors or as the reference page for people."""

import json

from mlcli import experiment


def run(markdown: bool = False) -> None:
    """Print the JSON schema, or with `markdown` the text of docs/config.md."""
    print(experiment.reference() if markdown else json.dumps(experiment.json_schema(), indent=2), end="" if markdown else "\n")
