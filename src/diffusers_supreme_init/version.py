"""The version, in one place: packaging, embedding files and model cards read it here."""

__version__ = "0.1.0"
