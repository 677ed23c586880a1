"""Restorers of other projects, by name: `spandrel:FILE`, `onnx:FILE` or `folder:DIR`.

`onnx:DIR` is one of ours that `hdrface export` wrote.

Such a name can be made a restorer folder, which others name by hash as they do a trained one:

    restorer.json     kind, name, licences, its files
    the checkpoint, or for `folder` the pictures
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.files import write_json
from components.hashes import sha256_of
from components.weights.manifest import FORMAT, RESTORER, Description, seal

if TYPE_CHECKING:
    import torch

    from components.restorers.by_export import ExportRestorer
    from components.restorers.by_folder import FolderRestorer
    from components.restorers.by_onnx import OnnxRestorer
    from components.restorers.by_spandrel import SpandrelRestorer

    OfOthers = SpandrelRestorer | OnnxRestorer | ExportRestorer | FolderRestorer

FOLDER = "folder"
KINDS = ("spandrel", "onnx", FOLDER)
_CONTENT = "content"


def is_of_others(name: str) -> bool:
    """Return whether a name is one of these."""
    return name.partition(":")[0] in KINDS


def path_of(name: str) -> Path:
    """Return the checkpoint or folder that a name leads to."""
    return Path(name.partition(":")[2])


def fingerprint_of(name: str) -> str:
    """Return the fingerprint of what a name leads to now, without opening it. Raises: OSError."""
    from components.restorers.by_export import EXPORT
    from components.restorers.by_folder import PicturesByName

    path = path_of(name)
    if name.startswith(f"{FOLDER}:"):
        return PicturesByName(path).names_hash()
    return sha256_of(path / EXPORT if path.is_dir() else path)


def kind_of(described: Description) -> str | None:
    """Return the kind of another project's restorer that a restorer folder holds; None: ours."""
    kind: str | None = described.content.get("kind")
    return kind


def refuse_preview(name: str, preview: Path | None) -> None:
    """Raise ValueError if another project's restorer is asked to decode by a tiny decoder."""
    if preview is not None:
        raise ValueError(
            f"{name} is another project's restorer, for which there is no tiny decoder: restore "
            "without --preview"
        )


def open_of_others(
    name: str, *, device: "torch.device", fingerprint: str | None = None
) -> "OfOthers":
    """Load a restorer.

    `fingerprint` is that of its restorer folder, if it has one.

    Raises: FileNotFoundError; ValueError if the file holds something else.
    """
    from components.restorers.by_export import ExportRestorer
    from components.restorers.by_folder import FolderRestorer
    from components.restorers.by_onnx import OnnxRestorer
    from components.restorers.by_spandrel import SpandrelRestorer

    kinds: Mapping[str, type[OfOthers]] = {
        "spandrel": SpandrelRestorer,
        "onnx": ExportRestorer if path_of(name).is_dir() else OnnxRestorer,
        FOLDER: FolderRestorer,
    }
    kind = kinds[name.partition(":")[0]]
    return kind(path_of(name), device=device, fingerprint=fingerprint)


def open_adopted(folder: Path, described: Description, *, device: "torch.device") -> "OfOthers":
    """Load what `adopt` has made. Raises: as `open_of_others`."""
    name = f"{kind_of(described)}:{folder / described.content['path']}"
    return open_of_others(name, device=device, fingerprint=described.fingerprint)


def adopt(name: str, out: Path) -> str:
    """Make a restorer folder of another project's restorer; return its fingerprint.

    Files are linked where the file system can, and copied otherwise. `out` appears when it is
    complete.

    Raises: FileExistsError if `out` is there already; otherwise as `open_of_others`.
    """
    import torch

    if out.exists():
        raise FileExistsError(f"{out} is there already: name a new folder")
    restorer, source = open_of_others(name, device=torch.device("cpu")), path_of(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        folder = Path(beside) / out.name
        folder.mkdir()
        path = _CONTENT if source.is_dir() else source.name
        _link([source] if source.is_file() else source.rglob("*"), source, folder / path)
        content = {
            "format": FORMAT,
            "kind": name.partition(":")[0],
            "name": restorer.name,
            "path": path,
            "needs": {},
            "licences": [restorer.licence],
            "lineage": {},
        }
        write_json(folder / RESTORER, content, sort_keys=True)
        fingerprint = seal(folder)
        folder.rename(out)
    return fingerprint


def _link(files: Iterable[Path], source: Path, target: Path) -> None:
    for file in files:
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(file)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, place)
