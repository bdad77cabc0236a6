"""From a name in the YAML to a Source: splits of samples and the facts about them."""
