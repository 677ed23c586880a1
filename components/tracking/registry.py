"""MLflow's model registry: trained folders as model versions, one of which is the champion.

A version lies where its training stored it, in the artifact `model` of the run: see
`components.tracking.package`. One call moves `@champion`, so there is always one. A tag of the
registered model lists the champions before it.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from components import files
from components.stores import stores
from components.tracking import artifacts, client, package
from components.tracking.outages import LIMIT_S, Server
from components.tracking.package import LINEAGE
from components.tracking.runs import MODEL_PATH
from components.weights.manifest import INT8_CHECK, RESTORER, Description
from components.weights.precision import InferencePrecision
from components.weights.store import NEEDS, Closure, bring, carried, packed

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"  # aliases
FINGERPRINT_TAG = "hdrface.fingerprint"  # of a version: its trained folder's
REASON_TAG = "hdrface.reason"  # why it is the champion, or not
DECIDED_TAG = "hdrface.decided"  # hash of what the decision of the stage `register` was based on
REPLACED_TAG = "hdrface.replaced_by_hand"  # "true": only a manual promote makes it champion again
CHAMPIONS_TAG = "hdrface.champions"  # of the registered model: versions, the current one last
SCORES = "scores.json"
_ASKING_LIMIT_S = 8.0  # nothing is lost: an early error is better
_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Champions:
    """Which version is the champion, which the challenger, and which were champions before."""

    now: str | None
    challenger: str | None
    before: tuple[str, ...]  # the latest last


class Registry:
    """One registered model and its versions.

    All methods raise TrackingError when the server refuses or is away.
    """

    def __init__(self, name: str) -> None:
        """Open a client. Raises: ValueError if `MLFLOW_TRACKING_URI` has a password in it."""
        self.name = name
        self._client = client.open_client()
        self.uri = self._client.tracking_uri
        self._server = Server(self.uri)

    def version_of(self, fingerprint: str) -> "ModelVersion | None":
        """Find the version of a trained folder."""
        return self._ask(lambda: self._version_of(fingerprint))

    def register(
        self, closure: Closure, run_id: str, *, story: Mapping[str, Any], tags: Mapping[str, str]
    ) -> "ModelVersion":
        """Make a trained folder a version; calling it again makes no second one.

        Files of the folder, and of what it names, that the run has already are not stored again.

        Args:
            closure: the trained folder and all that it names, verified.
            run_id: of its training.
            story: becomes `lineage.json`.
            tags: of the version, beside its fingerprint.

        Raises: ValueError if the run holds another model.
        """
        trained, _ = closure[-1]
        self._check_run(trained, run_id)
        there = dict(self._files(run_id))
        for path, file in packed(closure):
            if there.get(path) != file.stat().st_size:
                place = str((PurePosixPath(MODEL_PATH) / path).parent)
                self._transfer(partial(artifacts.store_file, self._client, run_id, file, place))
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "package"
            package.write(written, story)
            self._transfer(partial(self._client.log_artifacts, run_id, str(written), MODEL_PATH))
        return self._create(trained.fingerprint, run_id, tags)

    def keep_scores(self, version: "ModelVersion", scores: Mapping[str, Any]) -> None:
        """Store the scores of every test face with a version; they replace older ones."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / SCORES
            files.write_json(file, scores, sort_keys=True)
            self._transfer(
                partial(self._client.log_artifact, version.run_id, str(file), MODEL_PATH)
            )

    def keep_check(self, version: "ModelVersion", check: Path) -> None:
        """Store the check of a version in int8; it replaces an older one."""
        self._transfer(partial(self._client.log_artifact, version.run_id, str(check), MODEL_PATH))

    def scores(self, version: "ModelVersion") -> dict[str, Any] | None:
        """Read the scores that were stored with a version, if there are any."""
        return self._document(version.run_id, SCORES)

    def story(self, version: "ModelVersion") -> dict[str, Any] | None:
        """Read the lineage of a version, if it has one."""
        return self._document(version.run_id, LINEAGE)

    def champions(self) -> Champions:
        """Return the champion, the challenger and the earlier champions."""
        model = self._model()
        if model is None:
            return Champions(None, None, ())
        aliases = {alias: str(number) for alias, number in model.aliases.items()}
        now, listed = aliases.get(CHAMPION), model.tags.get(CHAMPIONS_TAG, "").split()
        # The list is written before the alias: after a kill, its end may never have been champion.
        while now in listed and listed[-1] != now:
            listed.pop()
        # A champion that was made in MLflow's own page is not in the list.
        before = listed[:-1] if now is None or now in listed else listed
        return Champions(now, aliases.get(CHALLENGER), tuple(before))

    def version_at(self, alias: str) -> "ModelVersion":
        """Find the version with an alias. Raises: ValueError that lists the known aliases."""
        model = self._model()
        if model is None or alias not in model.aliases:
            known = ", ".join(f"@{name}" for name in sorted(model.aliases)) if model else ""
            raise ValueError(
                f"{self.name} has no @{alias} at {self.uri} (there is {known or 'no alias'}): "
                f"{self._remedy}"
            )
        return self.version(str(model.aliases[alias]))

    def version(self, number: str) -> "ModelVersion":
        """Find a version by its number. Raises: ValueError if it is not registered."""
        found = self._found(lambda: self._client.get_model_version(self.name, number))
        if found is None:
            raise ValueError(f"{self.name} has no version {number} at {self.uri}: {self._remedy}")
        return found

    def crown(self, number: str) -> None:
        """Make a version the champion; the list of champions is written first."""
        champions = self.champions()
        if champions.now != number:
            before = [*champions.before, *([champions.now] if champions.now else [])]
            self._note_champions([*before, number])
            self._point(CHAMPION, number)
        if champions.challenger == number:
            self._ask(lambda: self._client.delete_registered_model_alias(self.name, CHALLENGER))

    def uncrown(self) -> str:
        """Make the previous champion the champion again; return its number.

        Raises: ValueError if there was none, or it is no longer registered.
        """
        champions = self.champions()
        if not champions.before:
            raise ValueError(
                f"{self.name} had no champion before version {champions.now}: "
                f"make another one with 'hdrface promote {self.name}/VERSION'"
            )
        before = champions.before[-1]
        self.version(before)  # raises: MLflow's own message names no remedy
        self._point(CHAMPION, before)
        self._note_champions(champions.before)
        return before

    def challenge(self, number: str) -> None:
        """Make a version the challenger."""
        self._point(CHALLENGER, number)

    def tag(self, number: str, tags: Mapping[str, str]) -> None:
        """Write tags of a version."""
        for key, value in tags.items():
            self._ask(partial(self._client.set_model_version_tag, self.name, number, key, value))

    def fetch(self, version: "ModelVersion", precision: InferencePrecision = "float32") -> Path:
        """Fetch a version into this machine's store; return its folder there, for `load_restorer`.

        What the store has already is not downloaded, and files of this machine are linked where
        the file system can. No code of the version runs. With precision `int8`, the version's check
        is fetched too, if it was checked after the store got it.

        Raises: FileNotFoundError or ValueError naming a missing or damaged file.
        """
        fingerprint = version.tags.get(FINGERPRINT_TAG)
        run_id = version.run_id
        if fingerprint is None or not run_id:
            raise ValueError(
                f"version {version.version} of {self.name} was not registered by this project: "
                "name one that the stage 'register' made"
            )
        store = stores()[0]
        place = store / fingerprint
        if (place / RESTORER).is_file():  # entered as a whole, after all that it names
            if precision == "int8" and not (place / INT8_CHECK).is_file():
                self._fetch_check(run_id, place)
            return place
        here = self._ask(lambda: artifacts.folder_of(self._client, run_id))
        if here is not None:
            folder = here / MODEL_PATH
            return bring(folder, store, carried(folder), put=files.link)
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store) as temporary:
            folder = Path(temporary)
            for path in _wanted([PurePosixPath(path) for path, _ in self._files(run_id)], store):
                place = (folder / path).parent
                place.mkdir(parents=True, exist_ok=True)
                source = f"{MODEL_PATH}/{path}"
                self._transfer(partial(self._client.download_artifacts, run_id, source, str(place)))
            return bring(folder, store, carried(folder), put=files.link)

    @property
    def _remedy(self) -> str:
        return (
            "list what is registered there with 'make mlflow', run 'dvc repro register', or set "
            f"{client.URI_VARIABLE} to the server that has it"
        )

    def _check_run(self, trained: Description, run_id: str) -> None:
        stored = self._document(run_id, RESTORER)
        if stored is not None and stored["fingerprint"] != trained.fingerprint:
            folder = trained.file.parent
            raise ValueError(
                f"the MLflow run {run_id} holds the model {stored['fingerprint']}, {folder} is "
                f"{trained.fingerprint}: run 'dvc repro --force train@{folder.name}'"
            )

    def _create(self, fingerprint: str, run_id: str, tags: Mapping[str, str]) -> "ModelVersion":
        if self._model() is None:
            self._ask(lambda: self._client.create_registered_model(self.name))
        source = f"{self._ask(lambda: self._client.get_run(run_id)).info.artifact_uri}/{MODEL_PATH}"
        given = {FINGERPRINT_TAG: fingerprint, **tags}

        def found_or_created() -> "ModelVersion":
            # Perhaps the last attempt succeeded, and only its answer was lost.
            return self._version_of(fingerprint) or self._client.create_model_version(
                self.name, source, run_id, tags=given
            )

        return self._ask(found_or_created)

    def _version_of(self, fingerprint: str) -> "ModelVersion | None":
        wanted = f"name = '{self.name}' AND tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
        found = self._client.search_model_versions(wanted)
        return min(found, key=lambda version: int(version.version), default=None)

    def _model(self) -> "RegisteredModel | None":
        return self._found(lambda: self._client.get_registered_model(self.name))

    def _point(self, alias: str, number: str) -> None:
        self._ask(lambda: self._client.set_registered_model_alias(self.name, alias, number))

    def _note_champions(self, numbers: Sequence[str]) -> None:
        noted = " ".join(numbers)
        self._ask(lambda: self._client.set_registered_model_tag(self.name, CHAMPIONS_TAG, noted))

    def _files(self, run_id: str, folder: str = MODEL_PATH) -> Iterator[tuple[str, int | None]]:
        """List the files of the run's model, relative to it, with their sizes in bytes."""
        for entry in self._ask(lambda: self._client.list_artifacts(run_id, folder)):
            if entry.is_dir:
                yield from self._files(run_id, entry.path)
            else:
                yield entry.path.removeprefix(f"{MODEL_PATH}/"), entry.file_size

    def _fetch_check(self, run_id: str, place: Path) -> None:
        check = self._document(run_id, INT8_CHECK)
        if check is not None:
            files.write_json(place / INT8_CHECK, check, sort_keys=True)

    def _document(self, run_id: str | None, name: str) -> dict[str, Any] | None:
        """Read a JSON file of the run's model, if there is one."""
        if not run_id:  # a version that was registered elsewhere
            return None
        path = f"{MODEL_PATH}/{name}"
        listed = self._ask(lambda: self._client.list_artifacts(run_id, MODEL_PATH))
        if path not in [entry.path for entry in listed]:
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = self._ask(lambda: self._client.download_artifacts(run_id, path, folder))
            content: dict[str, Any] = json.loads(Path(file).read_bytes())
            return content

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        return self._server.insist(call, _ASKING_LIMIT_S)

    def _found(self, call: Callable[[], Answer]) -> Answer | None:
        """Ask for something that may not exist; return None if it does not."""
        from mlflow.exceptions import MlflowException

        try:
            return self._ask(call)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _transfer(self, call: Callable[[], object]) -> None:
        with client.time_to_transfer():
            self._server.insist(call, LIMIT_S)


def find(reference: str) -> tuple[Registry, "ModelVersion"]:
    """Find the version that NAME/VERSION or NAME@ALIAS names; 'models:/' before it is optional.

    Raises: ValueError if it has another form, or is not registered.
    """
    asked = _REFERENCE.fullmatch(reference)
    if asked is None:
        raise ValueError(
            f"{reference!r} names no registered model: give NAME/VERSION or NAME@ALIAS, such as "
            "hdrface/3 or hdrface@champion"
        )
    registry = Registry(asked["name"])
    if asked["alias"]:
        return registry, registry.version_at(asked["alias"])
    return registry, registry.version(asked["version"])


def _wanted(paths: Sequence[PurePosixPath], store: Path) -> list[PurePosixPath]:
    """Return the files of a version that a store needs: whole folders, of which it lacks a file."""
    lacking = {
        path.parts[1]
        for path in paths
        if path.parts[0] == NEEDS and not store.joinpath(*path.parts[1:]).is_file()
    }
    return [
        path
        for path in paths
        if (path.parts[1] in lacking if path.parts[0] == NEEDS else path.parts[0] != package.CODE)
    ]
