"""What a folder of networks holds, file by file, and the fingerprint that follows from it.

A JSON file describes each of two kinds of folder: `manifest.json` pretrained weights, and
`restorer.json` a trained restorer. Both list their files with size and SHA-256, and have a
fingerprint by which others name them. It is a hash of content only: the same bytes from the hub,
from a colleague or from a store are the same weights.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator

from components.files import write_json
from components.hashes import read_sha256, sha256_of

MANIFEST = "manifest.json"
RESTORER = "restorer.json"
DESCRIPTIONS = (MANIFEST, RESTORER)
# A note in a trained folder, no part of it: that it was tried in int8 (`hdrface check`).
INT8_CHECK = "int8_check.json"
RESULTS = "results"  # a need that new faces do without, and that is not copied with its owner
FORMAT: Final = 2  # of both; 1 called the fingerprint an identity

# Not part of what a trained folder is: its name, its history, where a machine keeps things.
_NOT_CONTENT = ("fingerprint", "lineage", "files")
_NOT_NEED = ("hint",)

Kind = Literal["stand-in", "published"]


class FileRecord(BaseModel):
    """One file: its size in bytes and the hex digest of its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """`manifest.json`: where pretrained weights come from, their licence and their files.

    The files lie beside the manifest (stand-ins) or in the store (published weights), under the
    same relative names. `facts` is what else is known about them, such as a reconstruction PSNR.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = FORMAT
    name: str
    fingerprint: str
    kind: Kind
    source: str
    revision: str | None
    licence: str
    facts: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileRecord]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's manifest. Raises: FileNotFoundError, ValueError if it is not one."""
        description = Description.read(folder, MANIFEST)
        try:
            return cls.model_validate(description.content)
        except ValidationError as error:
            raise ValueError(
                f"{folder / MANIFEST} is not a manifest of weights: {error}"
            ) from error


@dataclass(frozen=True)
class Description:
    """The part that both kinds of folder share: the JSON's content, its fingerprint, its files."""

    file: Path
    content: Mapping[str, Any]
    fingerprint: str
    files: Mapping[str, FileRecord]

    @classmethod
    def read(cls, folder: Path, *names: str) -> Self:
        """Read `restorer.json` or `manifest.json`, or only the file of the given name.

        Raises: FileNotFoundError if there is none; ValueError if it is broken, lists no files, or
        names one outside its folder.
        """
        file = _description_file(folder, names or DESCRIPTIONS)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            _check_format(file, content)
            shared = _Shared.model_validate(content)
        except FormatError:
            raise
        except ValueError as error:  # json's and pydantic's errors are both ValueErrors
            raise ValueError(
                f"{file} is not the description of a sealed folder: {error}"
            ) from error
        return cls(file, content, shared.fingerprint, shared.files)

    def computed_fingerprint(self) -> str:
        """Return the fingerprint that follows from the content and the listed digests."""
        return _fingerprint(self.content, self.files)

    @property
    def needs(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what a trained folder names by hash: role -> name, fingerprint, hint."""
        needs: Mapping[str, Mapping[str, Any]] = self.content.get("needs", {})
        return needs


class FormatError(ValueError):
    """A description that another version of this project wrote."""


def _check_format(file: Path, content: Any) -> None:
    found = content.get("format") if isinstance(content, dict) else FORMAT
    if found != FORMAT:
        raise FormatError(
            f"{file} has format {found}, this version reads {FORMAT}: make it again with "
            "'dvc repro', or use the version that wrote it"
        )


class _Shared(BaseModel):
    fingerprint: str
    files: dict[str, FileRecord]

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for relative in files:
            path = PurePosixPath(relative)
            if path.is_absolute() or ".." in path.parts or "\\" in relative:
                raise ValueError(f"file {relative!r} lies outside its folder")
        return files


def write_manifest(
    folder: Path,
    *,
    name: str,
    kind: Kind,
    source: str,
    revision: str | None,
    licence: str,
    facts: Mapping[str, Any] | None = None,
    files: Mapping[str, FileRecord] | None = None,
) -> str:
    """Write the `manifest.json` of a folder of weights, and return the fingerprint.

    Without `files`, every file below `folder` is listed; give it if some lie elsewhere.
    """
    records = dict(records_of(folder) if files is None else files)
    manifest = Manifest(
        name=name,
        fingerprint=_fingerprint({"name": name}, records),
        kind=kind,
        source=source,
        revision=revision,
        licence=licence,
        facts=dict(facts or {}),
        files=records,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"), sort_keys=True)
    return manifest.fingerprint


def seal(folder: Path) -> str:
    """Write files and fingerprint into a trained folder's `restorer.json`; return the fingerprint.

    Call it when all other files are written; a second call changes nothing.

    Raises: FileNotFoundError if there is no `restorer.json`.
    """
    file = _description_file(folder, (RESTORER,))
    content = json.loads(file.read_text(encoding="utf-8"))
    records = records_of(folder)
    fingerprint = _fingerprint(content, records)
    files = {relative: record.model_dump() for relative, record in records.items()}
    write_json(file, {**content, "fingerprint": fingerprint, "files": files}, sort_keys=True)
    return fingerprint


def records_of(folder: Path) -> dict[str, FileRecord]:
    """Measure and hash the files below a folder, sorted by name; not what describes it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in found)
    apart = (*DESCRIPTIONS, INT8_CHECK)
    return _records(folder, [name for name in names if name not in apart], sha256_of)


def record_of(file: Path) -> FileRecord:
    """Measure and hash one file."""
    return _record(file, sha256_of)


def _records(
    folder: Path, relatives: Iterable[str], hash_of: Callable[[Path], str]
) -> dict[str, FileRecord]:
    ordered = sorted(relatives)
    # hashlib releases the GIL, so several large files are hashed at once.
    with ThreadPoolExecutor() as pool:
        records = list(pool.map(lambda name: _record(folder / name, hash_of), ordered))
    return dict(zip(ordered, records, strict=True))


def _record(file: Path, hash_of: Callable[[Path], str]) -> FileRecord:
    return FileRecord(bytes=file.stat().st_size, sha256=hash_of(file))


def check(
    root: Path, files: Mapping[str, FileRecord], *, remedy: str, every_byte: bool = False
) -> None:
    """Check every file below `root` against its record, sizes first, since they cost nothing.

    A large file that was hashed on this machine before is read again only if it has changed since
    (`components.hashes`), or if `every_byte` is asked for.

    Raises: FileNotFoundError or ValueError naming the first file (in name order) that is missing or
    differs, what was expected, and `remedy`.
    """
    for relative in sorted(files):
        path, expected = root / relative, files[relative]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {remedy}")
        if (size := path.stat().st_size) != expected.bytes:
            raise ValueError(f"{path} has {size} bytes, {expected.bytes} expected: {remedy}")
    for relative, found in _records(root, files, read_sha256 if every_byte else sha256_of).items():
        if found.sha256 != files[relative].sha256:
            raise ValueError(
                f"{root / relative} has SHA-256 {found.sha256}, "
                f"{files[relative].sha256} expected: {remedy}"
            )


def _description_file(folder: Path, names: Iterable[str]) -> Path:
    candidates = [folder / name for name in names]
    for file in candidates:
        if file.is_file():
            return file
    wanted = " or ".join(file.name for file in candidates)
    raise FileNotFoundError(f"{folder} holds no {wanted}: {_origin(folder)}")


def _origin(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    return "it was not made by a stage of this project, or the stage did not finish"


def _fingerprint(content: Mapping[str, Any], records: Mapping[str, FileRecord]) -> str:
    """Hash what a folder is: name and files of weights; of a restorer, all but its history."""
    digests = {relative: record.sha256 for relative, record in records.items()}
    if "needs" not in content:  # which a restorer always names
        return _hash({"format": FORMAT, "name": content.get("name"), "files": digests})
    kept = {key: value for key, value in content.items() if key not in _NOT_CONTENT}
    kept["needs"] = {
        role: {key: value for key, value in need.items() if key not in _NOT_NEED}
        for role, need in content.get("needs", {}).items()
    }
    return _hash({**kept, "files": digests})


def _hash(parts: Mapping[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
