"""Find the scores of a method on a set: what is there already is read, the rest is scored once.

a file of `hdrface evaluate --json`         as it is
a folder of results, or a restorer          scored here, and kept under its fingerprint
a model of this project                     scored on the set; without the set, its metrics file
a variant of an ablation                    `reports/ablations/NAME.json`
"""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import files, lineage
from components.encoders.identity import find_network
from components.hashes import sha256_of
from components.metrics.catalogue import CATALOGUE, missing_files
from components.paper import published
from components.paper.published import Row, SetName
from components.paper.sources import Faces, Sources
from components.params import Compute
from components.reporting import folder_scores
from components.reporting.face_sets import open_set
from components.restorers.catalogue import fingerprint_of, is_of_others, path_of
from components.tracking.outages import TrackingError
from components.tracking.trained_models import locate
from components.weights.manifest import RESTORER, Description

log = logging.getLogger(__name__)

Content = Mapping[str, Any]
SEED = 42  # METHOD, section 7
# What a user's place may be wrong in; the cell says so, and the other cells are made.
Refusals = (ValueError, OSError, TrackingError)


@dataclass(frozen=True)
class Project:
    """Where this project's own models and scores lie."""

    models: Path
    scores: Path  # the metrics files of the stage `evaluate`
    ablations: Path
    compute: Compute = field(default_factory=Compute)  # where faces are scored


@dataclass(frozen=True)
class Missing:
    """Why there are no scores: in two words, and in a sentence."""

    short: str
    told: str


@dataclass(frozen=True)
class Found:
    """A metrics file's content. `faces` is the published set that it is about, if it is one."""

    content: Content
    faces: SetName | None


class Scores:
    """Finds scores, and keeps those that it makes in a folder."""

    def __init__(self, sources: Sources, project: Project, kept: Path) -> None:
        self._sources, self._project, self._kept = sources, project, kept
        self._known: dict[
            tuple[str, str], Found | Missing
        ] = {}  # what was given, by method and set

    def find(self, row: Row, name: SetName) -> Found | Missing:
        """Return the scores of a row's method on a set, or why there are none."""
        place = self._sources.place(row.method, name)
        if place is not None:
            return self._given(row.method, name, place)
        if row.ablation is not None and (found := self._variant(row.ablation)) is not None:
            return found
        if row.model is not None and (self._project.models / row.model / RESTORER).is_file():
            return self._own(row.method, row.model, name)
        return _missing(row, self._project)

    def _given(self, method: str, name: SetName, place: str) -> Found | Missing:
        key = (method, name)
        if key not in self._known:
            self._known[key] = self._read_or_scored(method, name, place)
        return self._known[key]

    def _read_or_scored(self, method: str, name: SetName, place: str) -> Found | Missing:
        try:
            if place.endswith(".json"):
                return Found(_one(Path(place)), name)
            if name not in self._sources.sets:
                return Missing("no set", f"{name} is not given: name its folders under sets")
            return Found(self._scored(method, name, place), name)
        except Refusals as error:
            log.warning("%s on %s: %s", method, name, said(error))
            return Missing("failed", f"{method} on {name}: {said(error)}")

    def _own(self, method: str, model: str, name: SetName) -> Found | Missing:
        if name in self._sources.sets:
            return self._given(method, name, str(self._project.models / model))
        file = self._project.scores / f"{model}.json"
        # Real photographs say nothing about the test split's degraded faces, nor they about them.
        if name == "celeba-test" and file.is_file():
            return Found(_one(file), None)
        return Missing("no set", f"{name} is not given: name its folders under sets")

    def _variant(self, place: tuple[str, str, str]) -> Found | None:
        ablation, variant, model = place
        file = self._project.ablations / f"{ablation}.json"
        if not file.is_file():
            return None
        scored = json.loads(file.read_bytes()).get("scores", {})
        content = scored.get(variant, {}).get(model)
        return None if content is None else Found(content, None)

    def _scored(self, method: str, name: SetName, place: str) -> Content:
        faces = self._sources.sets[name]
        wanted = folder_scores.Wanted(
            hq=faces.hq,
            lq=faces.lq,
            endings=self._sources.ignore_endings,
            metrics=wanted_metrics(name, self._sources.identity_network is not None),
            **_competitor(place),
        )
        if all(missing_files(metric) for metric in wanted.metrics):
            return {"protocol": {}, "metrics": {}, "unavailable": {}}
        key = {
            "place": _fingerprint(place),
            "faces": _fingerprints(faces),
            "endings": wanted.endings,
            "metrics": {metric: missing_files(metric) for metric in wanted.metrics},
            "identity_network": _network_hash(self._sources.identity_network),
            "seed": SEED,
        }

        def score() -> Content:
            log.info("%s is scored on %s", method, name)
            (result,) = folder_scores.evaluate(
                wanted,
                seed=SEED,
                identity_network=self._sources.identity_network,
                batch_size=self._sources.batch_size,
                compute=self._project.compute,
            )
            return result

        return kept(self._kept / f"{name}-{slug(method)}.json", key, score)


def _missing(row: Row, project: Project) -> Missing:
    """Say why nothing is known of a row's method."""
    if row.ablation is not None:
        ablation, *_ = row.ablation
        return Missing(
            "not run",
            f"the variant has no scores: run 'hdrface ablate {ablation}', or name the method "
            "under methods",
        )
    if row.model is not None:
        folder = project.models / row.model
        return Missing("not trained", f"{folder} is not there: train it with 'dvc repro'")
    return Missing(
        "not given",
        "no results were given: name the method under methods, with a folder of results, a file "
        "of scores or a restorer",
    )


def wanted_metrics(name: SetName, has_identity_network: bool) -> tuple[str, ...]:
    """Return the metrics of the tables' columns about a set.

    A metric whose own files are missing here is also measured by other protocols, if they can be.
    """
    names: list[str] = []
    for table in published.tables():
        for column in table.columns:
            if column.faces is None or column.faces.name != name:
                continue
            first, *others = column.metric.entries
            names.append(first)
            if missing_files(first):
                names += [
                    other
                    for other in others
                    if not missing_files(other)
                    and (CATALOGUE[other].opens is not None or has_identity_network)
                ]
    return tuple(dict.fromkeys(names))


def kept(file: Path, key: Mapping[str, Any], make: Callable[[], Content]) -> Content:
    """Return what was made under this key before; otherwise make it and keep it."""
    fingerprint = lineage.fingerprint(**key)
    if file.is_file():
        content: dict[str, Any] = json.loads(file.read_bytes())
        if content.get("made_from") == fingerprint:
            return content
    made = {**make(), "made_from": fingerprint}
    files.write_json(file, made)
    return made


def said(error: Exception) -> str:
    """Return an error in words: a file that is missing by its name."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def slug(method: str) -> str:
    """Return a method's name as a file's."""
    return re.sub(r"[^a-z0-9.]+", "-", method.lower()).strip("-.") or "method"


def is_restorer(place: str) -> bool:
    """Return whether a place is opened as a restorer; a plain folder holds results."""
    if is_of_others(place):
        return not place.startswith("folder:")
    return place.startswith(("models:/", "runs:/")) or (Path(place) / RESTORER).is_file()


def _competitor(place: str) -> dict[str, Any]:
    if is_restorer(place):
        return {"models": (place,)}
    return {"results": (_results(place),)}


def _results(place: str) -> Path:
    return path_of(place) if is_of_others(place) else Path(place)


def fingerprint_of_restorer(place: str) -> str:
    """Return the fingerprint of a restorer. Raises: as `locate`."""
    if is_of_others(place):
        return fingerprint_of(place)
    with tempfile.TemporaryDirectory() as downloads:
        folder = locate(place, Path(downloads)).folder
        return Description.read(folder, RESTORER).fingerprint


def _network_hash(place: Path | None) -> str | None:
    return None if place is None else sha256_of(find_network(place))


def _fingerprint(place: str) -> str:
    if is_restorer(place):
        return fingerprint_of_restorer(place)
    return open_set(_results(place), column="sr_png").fingerprint


def _fingerprints(faces: Faces) -> Sequence[str | None]:
    sides = ((faces.hq, "hq_png"), (faces.lq, "lq_png"))
    return [
        None if place is None else open_set(place, column=column).fingerprint
        for place, column in sides
    ]


def _one(file: Path) -> Content:
    """Read the scores of one method. Raises: OSError; ValueError if the file holds no such."""
    content = json.loads(file.read_bytes())
    if isinstance(content, dict) and "results" in content:
        raise ValueError(f"{file} compares several models: write one file per method")
    if not isinstance(content, dict) or "metrics" not in content:
        raise ValueError(f"{file} has no scores: name a file of 'hdrface evaluate --json'")
    return content
