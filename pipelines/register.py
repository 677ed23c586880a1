"""Stage `register`: make trained folders versions in MLflow's registry, and the best the champion.

reads   models/B-C               trained folders, and what they name
        metrics/models/B-C.json  their scores, face by face
        the manifests of tables and weights, dvc.lock, the MLflow runs of the trainings
writes  one version per model in MLflow's registry, with the aliases `champion` and `challenger`
        metrics/registered.json  model -> version, alias, reason
        data/champion/           the trained folder of the champion, for `dvc artifacts get`

A candidate that is better than the champion by the rule in `promotion` takes its place; any other
becomes the challenger. A decision stands until the rule or the scores change. A version that
`hdrface promote` has replaced becomes the champion again only by `hdrface promote`.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from components import files, lineage
from components.metrics import promotion
from components.metrics.promotion import Rule, Verdict
from components.params import Params
from components.tables import Table
from components.tracking import client, runs
from components.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    DECIDED_TAG,
    REASON_TAG,
    REPLACED_TAG,
    Registry,
)
from components.weights.manifest import RESTORER, Description, Manifest
from components.weights.store import Closure, closure, open_model
from pipelines import stage

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

SECTION = "register"


class RegisterParams(Params):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]  # of the registered model
    candidates: Annotated[list[str], Field(min_length=1)]  # trained folders, BACKBONE-CONDITION
    models: Path  # the folder of trained folders
    scores: Path  # the folder of metrics files
    tables: list[Path]  # whose manifests go into the lineage
    out: Path
    champion: Path  # a folder
    promotion: Rule


class Candidate(NamedTuple):
    """A trained folder that is registered, and its metrics file."""

    model: str
    number: str  # of its version
    tags: Mapping[str, str]
    scores: Mapping[str, Any]
    decided: str  # the hash of the rule and the scores


def run(params: RegisterParams) -> None:
    """Register every candidate, then decide about those that are new or whose scores are.

    Raises: ValueError if a candidate has no scores or no MLflow run, or the run holds another
        model; TrackingError if MLflow cannot be used.
    """
    with client.alone():
        _run(params)


def _run(params: RegisterParams) -> None:
    registry = Registry(params.name)
    candidates = [_registered(registry, params, name) for name in params.candidates]
    # In the order of versions: so the newest of several challengers gets the alias.
    for candidate in sorted(candidates, key=lambda one: int(one.number)):
        if candidate.tags.get(DECIDED_TAG) != candidate.decided:
            _decide(registry, candidate, params.promotion)
            registry.tag(candidate.number, {DECIDED_TAG: candidate.decided})
    files.write_json(params.out, _outcome(registry, candidates), sort_keys=True)
    _hand_out(registry, params, candidates)


def _registered(registry: Registry, params: RegisterParams, name: str) -> Candidate:
    """Find or make the version of a trained folder, and keep new scores with it."""
    folder = params.models / name
    trained = Description.read(folder, RESTORER)
    scores = _scores(params.scores / f"{name}.json", trained.fingerprint)
    version = registry.version_of(trained.fingerprint)
    if version is None:
        version = _register(registry, params, name, trained)
    rule = params.promotion.model_dump(mode="json")
    decided = lineage.fingerprint(rule=rule, scores=scores)
    number = str(version.version)
    if version.tags.get(DECIDED_TAG) != decided:
        registry.keep_scores(version, scores)
        means = {key: metric["restored"]["mean"] for key, metric in scores["metrics"].items()}
        registry.tag(number, {f"metric.{key}": f"{mean:.4f}" for key, mean in means.items()})
    return Candidate(name, number, version.tags, scores, decided)


def _scores(file: Path, fingerprint: str) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is not there: run 'dvc repro evaluate'")
    scores: dict[str, Any] = json.loads(file.read_bytes())
    if (scored := scores["model"]["fingerprint"]) != fingerprint:
        raise ValueError(
            f"{file} has the scores of the model {scored}, not of {fingerprint}: "
            "run 'dvc repro evaluate'"
        )
    return scores


def _register(
    registry: Registry, params: RegisterParams, name: str, trained: Description
) -> "ModelVersion":
    folder = params.models / name
    training = trained.content["lineage"].get("training")
    run_id = runs.run_of(training) if training else None
    if run_id is None:
        raise ValueError(
            f"MLflow at {registry.uri} has no run in which {folder} was trained: set "
            f"{client.URI_VARIABLE} to the server that has it, or train it again with "
            f"'dvc repro --force train@{name}'"
        )
    needed = list(closure(folder))
    story = {
        "model": name,
        "fingerprint": trained.fingerprint,
        "run": run_id,
        "git": trained.content["lineage"]["git"],
        **_weights(needed),
        "tables": dict(map(_table, params.tables)),
        "stages": lineage.locked_stages(folder),
    }
    version = registry.register(needed, run_id, story=story, tags=_tags(story))
    log.info("%s is version %s of %s", name, version.version, params.name)
    return version


def _weights(needed: Closure) -> dict[str, Any]:
    """Return the pretrained weights that a model stands on, and every licence."""
    manifests = [
        Manifest.read(description.file.parent)
        for description, _ in needed
        if description.file.name != RESTORER
    ]
    licences = {manifest.licence for manifest in manifests}
    for description, _ in needed:
        licences.update(description.content.get("licences", ()))
    kept = {"name", "fingerprint", "source", "revision", "licence"}
    unique = {manifest.fingerprint: manifest.model_dump(include=kept) for manifest in manifests}
    return {"weights": list(unique.values()), "licences": sorted(licences)}


def _table(folder: Path) -> tuple[str, dict[str, Any]]:
    table = Table.open(folder)
    return str(folder), {
        "stage": table.stage,
        "fingerprint": table.fingerprint,
        "rows": table.num_rows,
        "rejected": len(table.rejected),
    }


def _tags(story: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which versions are searched and compared; lineage holds the rest."""
    data = lineage.inputs_of(story["stages"]).items()
    return {
        "hdrface.model": story["model"],
        "git.commit": story["git"]["commit"] or "none",
        "git.dirty": str(story["git"]["dirty"]).lower(),
        "licences": "; ".join(story["licences"]),
        **{f"dvc.{path}": value for path, value in data if not lineage.is_source(path)},
    }


def _decide(registry: Registry, candidate: Candidate, rule: Rule) -> None:
    """Move an alias to the candidate, and say why."""
    number = candidate.number
    champion = registry.champions().now
    if champion == number:
        log.info("%s, version %s, stays the champion", candidate.model, number)
        return
    if candidate.tags.get(REPLACED_TAG) == "true":
        log.info("%s, version %s, was replaced by hand and stays so", candidate.model, number)
        return
    verdict = _judge(registry, candidate, champion, rule)
    rival = "the degraded faces" if champion is None else f"version {champion}"
    reason = f"against {rival}: {verdict.reason}"
    registry.tag(number, {REASON_TAG: reason})  # first: after a kill it is the champion's already
    if verdict.is_better:
        registry.crown(number)
    else:
        registry.challenge(number)
    alias = CHAMPION if verdict.is_better else CHALLENGER
    log.info("%s, version %s, becomes @%s: %s", candidate.model, number, alias, reason)


def _judge(registry: Registry, candidate: Candidate, champion: str | None, rule: Rule) -> Verdict:
    if champion is None:
        return promotion.compare_with_input(candidate.scores, rule)
    kept = registry.scores(registry.version(champion))
    if kept is None:
        return Verdict(False, "not comparable: no scores of single faces are kept with it")
    return promotion.compare(candidate.scores, kept, rule)


def _hand_out(registry: Registry, params: RegisterParams, candidates: list[Candidate]) -> None:
    """Put the champion's trained folder where DVC finds it: the same files, nothing is copied.

    It may have been registered by an earlier run, so that it is no longer in `models`. Without a
    champion that this code can read, the folder stays empty.
    """
    shutil.rmtree(params.champion, ignore_errors=True)
    params.champion.mkdir(parents=True)
    number = registry.champions().now
    if number is None:
        return
    here = [params.models / one.model for one in candidates if one.number == number]
    try:
        trained = open_model(here[0] if here else registry.fetch(registry.version(number)))
    except (FileNotFoundError, ValueError) as error:
        log.warning("%s is empty: %s", params.champion, error)
        return
    for name in (*trained.files, RESTORER):
        files.link(trained.file.parent / name, params.champion / name)


def _outcome(registry: Registry, candidates: list[Candidate]) -> dict[str, Any]:
    champions = registry.champions()
    aliases = {champions.challenger: CHALLENGER, champions.now: CHAMPION}
    return {
        candidate.model: {
            "version": f"{registry.name}/{candidate.number}",
            "alias": aliases.get(candidate.number),
            "reason": registry.version(candidate.number).tags.get(REASON_TAG),
        }
        for candidate in candidates
    }


if __name__ == "__main__":
    stage.start("pipelines.register")
