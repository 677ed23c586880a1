"""The check without which no trained folder is restored with in int8.

How much a network loses with 8-bit weights depends on its weights. So a trained folder is checked
once: `hdrface check` restores faces in bf16 and in int8, and notes in the folder how far apart they
are. The note is no part of what the folder is: it is not sealed with it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from components.files import write_json
from components.restorers.catalogue import kind_of
from components.weights.manifest import INT8_CHECK, RESTORER, Description

# dB, int8 against bf16. Restored faces are 21 to 24 dB from the true ones (paper, Table 1). An
# independent difference of 40 dB, 2.6 levels of 255, moves 24 dB by 0.11: less than restorers
# differ by. At 30 dB, 8 levels, a face has visibly other details.
MIN_MEAN_PSNR = 40.0
MIN_WORST_PSNR = 30.0
MIN_FACES = 16  # with 2 dB between faces, their mean is known to 0.5 dB


class Int8Check(BaseModel):
    """`int8_check.json`: how far a trained folder's restorations in int8 are from those in bf16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1  # another way to quantize is another format
    fingerprint: str  # of the trained folder, and so of all weights that it names
    faces: PositiveInt
    mean_psnr: float  # dB
    worst_psnr: float  # of a face, dB
    min_faces: PositiveInt = MIN_FACES
    min_mean_psnr: float = MIN_MEAN_PSNR
    min_worst_psnr: float = MIN_WORST_PSNR
    versions: dict[str, str]  # of libraries; they are told, not compared

    def failures(self) -> Iterator[str]:
        """Say which limits of this version are not met."""
        if self.faces < MIN_FACES:
            yield f"{self.faces} faces were compared, at least {MIN_FACES} are needed"
        # Not `<`, for which NaN would pass.
        if not self.mean_psnr >= MIN_MEAN_PSNR:
            yield f"the mean PSNR is {self.mean_psnr:.1f} dB, below {MIN_MEAN_PSNR:g}"
        if not self.worst_psnr >= MIN_WORST_PSNR:
            yield f"the worst face's PSNR is {self.worst_psnr:.1f} dB, below {MIN_WORST_PSNR:g}"

    def write(self, folder: Path) -> None:
        """Write the note into a trained folder, as a whole."""
        write_json(folder / INT8_CHECK, self.model_dump(mode="json"), sort_keys=True)


def require_check(folder: Path) -> None:
    """Refuse a trained folder that was not checked, or did not pass.

    Restorers of other projects, which compute in float32 always, need none.

    Raises: ValueError that says what to run; FileNotFoundError if it is no trained folder.
    """
    described = Description.read(folder, RESTORER)
    if kind_of(described) is not None:
        return
    check = _read(folder)
    if check.fingerprint != described.fingerprint:
        raise ValueError(
            f"{folder / INT8_CHECK} is of the weights {check.fingerprint}, these are "
            f"{described.fingerprint}: {_remedy(folder)}"
        )
    if failures := list(check.failures()):
        raise ValueError(
            f"{folder} did not pass the check in int8 ({'; '.join(failures)}): use precision bf16, "
            f"or {_remedy(folder)}"
        )


def _read(folder: Path) -> Int8Check:
    file = folder / INT8_CHECK
    if not file.is_file():
        raise ValueError(f"{folder} was not checked in int8: {_remedy(folder)}")
    try:
        return Int8Check.model_validate_json(file.read_bytes())
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise ValueError(f"{file} cannot be used ({told}): {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    return f"run 'hdrface check --model {folder} --hq DIR' with at least {MIN_FACES} faces"
