"""Where a model comes from: a trained folder, the registry, or a run."""

from pathlib import Path

from components.serving.model import Version
from components.weights.store import open_model


def locate(source: str) -> Version:
    folder = Path(source)
    return Version(folder.name, open_model(folder).identity)


def fetch(source: str, version: Version) -> Path:
    del version
    return Path(source)
