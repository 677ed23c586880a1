"""Folders of weights as their authors publish them: read, and compared before anything is used.

    HDRFace, SD 2.1    fusion.pth, pytorch_lora_weights.safetensors
    HDRFace, Qwen      fusion.pth, projection.pth and the generator's own file
    OSDFace            pytorch_lora_weights.safetensors, embedding_change_weights.pth and
                       associate_2.safetensors

The `.pth` files are read only if they hold nothing but tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from components.hashes import sha256_of
from components.weights.checkpoints import misfits, read_tensors, shapes_of

FUSION_FILE = "fusion.pth"
PROJECTION_FILE = "projection.pth"


@dataclass(frozen=True)
class PublishedFolder:
    """The files of one layout, and all that was found wrong with their tensors."""

    folder: Path
    files: Mapping[str, Mapping[str, Tensor]]  # tensors by name, of each file
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, names: Sequence[str]) -> Self:
        """Read the files; pickles are read only if they hold nothing but tensors.

        Raises: FileNotFoundError naming all that are missing; ValueError if one is damaged or
            holds more than tensors.
        """
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder} holds no {', no '.join(missing)}: copy it from the authors' release"
            )
        return cls(folder, {name: read_tensors(folder / name) for name in names})

    def compare(
        self, name: str, tensors: Mapping[str, Tensor], places: Mapping[str, Sequence[int]]
    ) -> None:
        """Note what keeps a file's tensors from filling places, given as shapes by name."""
        self.wrong.extend(f"{name} {line}" for line in misfits(places, shapes_of(tensors)))

    def refuse_misfits(self) -> None:
        """Raise ValueError listing all that was noted, if anything was."""
        if self.wrong:
            listed = "".join(f"\n  {line}" for line in self.wrong)
            raise ValueError(
                f"{self.folder} does not fit; nothing was written:{listed}\n"
                "give the files of one release, unchanged, and the networks that they were "
                "trained on"
            )

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its name."""
        return {name: sha256_of(self.folder / name) for name in self.files}


def load_published_condition(folder: Path, fusion: nn.Module, projection: nn.Module) -> None:
    """Load HDRFace's `fusion.pth` and, where the projection has weights, `projection.pth`.

    Raises: FileNotFoundError naming what is missing; ValueError listing what does not fit.
    """
    modules = {FUSION_FILE: fusion}
    if any(True for _ in projection.parameters()):
        modules[PROJECTION_FILE] = projection
    published = PublishedFolder.read(folder, tuple(modules))
    for name, module in modules.items():
        published.compare(name, published.files[name], shapes_of(module.state_dict()))
    published.refuse_misfits()
    for name, module in modules.items():
        module.load_state_dict(published.files[name])
