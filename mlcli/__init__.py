"""mlcli: from one YAML file to a trained, measured and explained model."""

__version__ = "0.1.0"
