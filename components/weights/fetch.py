"""Published weights: from the hub at a fixed revision, or from a local folder in the same layout.

Nothing is fetched twice: the hub's own cache holds the files, named by their hashes, and the store
links to them. A pickle is never read: only safetensors, JSON and text.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from torch import Tensor

from components.params import Params
from components.weights import store
from components.weights.licences import licence_of
from components.weights.manifest import MANIFEST, FileRecord, Manifest, record_of, write_manifest
from components.weights.prompt import PROMPT_FILE, REFERENCE_PROMPT, write_prompt

log = logging.getLogger(__name__)

SAFE_SUFFIXES = (".safetensors", ".json", ".txt")


def _without_pickles(pattern: str) -> str:
    if not pattern.endswith(SAFE_SUFFIXES):
        raise ValueError(f"must end in one of {', '.join(SAFE_SUFFIXES)}: a pickle is never loaded")
    return pattern


Pattern = Annotated[str, AfterValidator(_without_pickles)]
Commit = Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class TextParams(Params):
    """The fixed text condition of a backbone, encoded once by its own text encoder."""

    text: str = REFERENCE_PROMPT
    patterns: Sequence[Pattern] = Field(min_length=1)  # of the text encoder and the tokenizer


class PublishedParams(Params):
    """Published weights: the repository, its revision and the files."""

    id: str  # on the hub
    revision: Commit
    patterns: Sequence[Pattern] = Field(min_length=1)
    licence: str | None = None  # None: the licence that is known for this id
    sha256: Mapping[str, Sha256] = Field(default_factory=dict)  # of the files that are pinned
    source: Path | None = None  # a local folder in the published layout, instead of the hub
    prompt: TextParams | None = None


EncodePrompt = Callable[[Path, str], Mapping[str, Tensor]]


def publish(
    folder: Path, name: str, params: PublishedParams, encode_prompt: EncodePrompt | None = None
) -> str:
    """Fetch published weights and describe them in `folder`; return their fingerprint.

    `folder` gets the manifest and the text condition, which `encode_prompt(layout, text)` makes;
    the large files stay where they are, with links to them in the store.

    Raises: FileNotFoundError, PermissionError, ConnectionError or ValueError that says what is
    missing, refused or different, and what to do.
    """
    licence = params.licence or licence_of(params.id)
    root, files = get(name, params)
    records = {relative: record_of(root / relative) for relative in files}
    _compare_with_pins(name, params, records)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {}
    if params.prompt is not None:
        facts["prompt"] = params.prompt.text
        if encode_prompt is None:
            raise ValueError(
                f"weights.{name}.published.prompt: {name} is not a backbone, remove the section"
            )
        encoded = encode_prompt(root, params.prompt.text)
        write_prompt(encoded, params.prompt.text, folder / PROMPT_FILE)
        records[PROMPT_FILE] = record_of(folder / PROMPT_FILE)
    fingerprint = write_manifest(
        folder,
        name=name,
        kind="published",
        source=params.id,
        revision=params.revision,
        licence=licence,
        facts=facts,
        files=records,
    )
    store.link(folder, root)
    return fingerprint


def complete(folder: Path, params: PublishedParams) -> str:
    """Fetch the files that a manifest names to a machine that has only the manifest.

    The folder stays as it is. Raises: as `publish`; ValueError if what was fetched differs from
    the manifest.
    """
    manifest = Manifest.read(folder)
    # The text condition lies beside the manifest already: its encoder is not needed again.
    root, _ = get(manifest.name, params.model_copy(update={"prompt": None}))
    store.link(folder, root)
    return store.open_weights(folder).fingerprint


def matches(folder: Path, params: PublishedParams) -> bool:
    """Return whether a folder's manifest describes what these parameters ask for."""
    if not (folder / MANIFEST).is_file():
        return False
    manifest = Manifest.read(folder)
    asked = ("published", params.id, params.revision, params.prompt and params.prompt.text)
    found = (manifest.kind, manifest.source, manifest.revision, manifest.facts.get("prompt"))
    names = [file for file in manifest.files if file != PROMPT_FILE]
    wanted = all(any(fnmatch(file, pattern) for pattern in params.patterns) for file in names)
    return asked == found and wanted


def get(name: str, params: PublishedParams) -> tuple[Path, list[str]]:
    """Fetch the published layout if needed; return its folder and the files that match, sorted.

    Raises: see `publish`.
    """
    patterns = [*params.patterns, *(params.prompt.patterns if params.prompt else ())]
    root = _local(name, params.source) if params.source else _from_hub(name, params, patterns)
    for pattern in patterns:
        if not _matching(root, [pattern]):
            raise FileNotFoundError(
                f"weights.{name}: no file of {root} matches {pattern!r}: look at the layout on "
                f"https://huggingface.co/{params.id}/tree/{params.revision} and correct the pattern"
            )
    files = _matching(root, params.patterns)
    _refuse_missing_parts(root, files)
    return root, files


def _local(name: str, source: Path) -> Path:
    if not source.is_dir():
        raise FileNotFoundError(
            f"weights.{name}.published.source = {source}: no such folder; "
            "it must hold the published layout"
        )
    return source


def _from_hub(name: str, params: PublishedParams, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{params.id} at {params.revision}"
    otherwise = f"set weights.{name}.published.source to a local folder in the published layout"
    log.info("weights %s: %s, from the hub or its cache", name, where)
    try:
        root = snapshot_download(params.id, revision=params.revision, allow_patterns=list(patterns))
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError, so first
        raise PermissionError(
            f"{where} is gated: accept its licence on https://huggingface.co/{params.id} and run "
            f"'hf auth login', or {otherwise}"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{params.id} exists, but not at {params.revision}: "
            f"correct weights.{name}.published.revision"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{where} is not on the hub, or hidden: correct weights.{name}.published.id, run "
            f"'hf auth login' if it is private, or {otherwise}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{where} is not complete in the hub's cache, and the hub does not answer: connect "
            f"and run again, or {otherwise}"
        ) from error
    return Path(root)


def _matching(root: Path, patterns: Sequence[str]) -> list[str]:
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(file for file in files if any(fnmatch(file, pattern) for pattern in patterns))


def _refuse_missing_parts(root: Path, files: Sequence[str]) -> None:
    """Check that no part of weights in several files is missing (an interrupted copy)."""
    for index in (file for file in files if file.endswith(".safetensors.index.json")):
        parts = json.loads((root / index).read_text(encoding="utf-8"))["weight_map"].values()
        for part in sorted(set(parts)):
            relative = (Path(index).parent / part).as_posix()
            if relative not in files:
                raise FileNotFoundError(
                    f"{root / index} names {part}, which is missing or matches no pattern: copy it "
                    "there, or add it to 'patterns'"
                )


def _compare_with_pins(
    name: str, params: PublishedParams, records: Mapping[str, FileRecord]
) -> None:
    for relative, pinned in sorted(params.sha256.items()):
        if relative not in records:
            raise ValueError(
                f"weights.{name}.published.sha256 pins {relative!r}, which no pattern selects"
            )
        if (found := records[relative].sha256) != pinned:
            raise ValueError(
                f"{relative} of {params.id} has SHA-256 {found}, but {pinned} is pinned: do not "
                "use it before you know why; delete it from the hub's cache to fetch it again"
            )
