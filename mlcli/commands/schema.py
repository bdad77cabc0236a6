"""`mlcli schema`: what a configuration may say, as the JSON schema for editors or as the reference page for people."""

import json

from mlcli import experiment


def run(markdown: bool = False) -> None:
    """Print the JSON schema, or with `markdown` the text of docs/config.md."""
    if markdown:
        print(experiment.reference(), end="")
    else:
        print(json.dumps(experiment.json_schema(), indent=2))
