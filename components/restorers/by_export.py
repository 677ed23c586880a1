"""An exported restorer, run by ONNX Runtime: `onnx:DIR`, where `hdrface export` made DIR.

    export.json                  what the parts are, and the numbers that join them
    encoder.onnx, gate.onnx, …   the parts (`components.restorers.parts`), with their weights in
                                 NAME.onnx.data; in torch.export's format encoder.pt2, …
    prompt.safetensors           the condition, if it is a text

For a degraded face x in [0, 1] and its first restoration r:

    c = gate(encoder(r), encoder(x)), or the prompt
    z = scaling · vae_encoder(2x - 1)
    z_hat = (z - sqrt(1 - alpha_bar) · unet(z, c)) / sqrt(alpha_bar)
    result = (vae_decoder(z_hat / scaling) + 1) / 2

Tokens and z are rounded to float16 as in the tables that a training reads.

B batch, N tokens, C token width or latent channels, D condition width, H and W of the picture or of
the latent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from components import images
from components.backbones.color_fix import ColorFix
from components.hashes import sha256_of
from components.restorers.by_onnx import open_session
from components.restorers.hdrface import as_cached, look_twice
from components.restorers.protocol import (
    Intermediates,
    Restoration,
    RestoresFaces,
    check_first,
    refuse_intermediates,
    where_from,
)
from components.restorers.spec import RestorerSpec
from components.weights.manifest import FileRecord, check
from components.weights.precision import InferencePrecision
from components.weights.prompt import PROMPT_FILE

EXPORT = "export.json"
Format = Literal["onnx", "torch-export"]


class PartRecord(BaseModel):
    """A part: its file, shapes of its inputs without the batch, names of its outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    inputs: dict[str, list[int]]
    outputs: list[str]
    largest_difference: float  # from the restorer's own network, of the output's largest number


class Export(BaseModel):
    """`export.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    format: Format
    name: str
    source: str  # fingerprint of the trained folder
    restorer: RestorerSpec
    alpha_bar: float
    scaling: float
    patches_per_side: int | None  # that the encoder sees; None for a text
    parts: dict[str, PartRecord]
    licences: list[str]
    files: dict[str, FileRecord]

    @classmethod
    def read(cls, folder: Path) -> "Export":
        """Read a description. Raises: FileNotFoundError; ValueError if it is none."""
        file = folder / EXPORT
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: make the folder with 'hdrface export'")
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{file} describes no export of this version: make it again with 'hdrface export': "
                f"{error}"
            ) from error


class ExportRestorer:
    """Restore aligned faces as the trained folder does that was exported."""

    precision: ClassVar[InferencePrecision] = "float32"
    is_preview: ClassVar[bool] = False
    color_fix: ClassVar[ColorFix] = "none"
    fidelity: ClassVar[float | None] = None

    def __init__(
        self, folder: Path, *, device: torch.device, fingerprint: str | None = None
    ) -> None:
        """Open an export after verifying every file of it.

        First restorations come with the faces, unless `build_on` names who makes them.

        Raises: FileNotFoundError or ValueError naming the first wrong file; ValueError if ONNX
            Runtime cannot compute on `device`, or the export is in another format.
        """
        self.export = Export.read(folder)
        if self.export.format != "onnx":
            raise ValueError(
                f"{folder} is in the format {self.export.format}: ONNX Runtime needs "
                "'hdrface export --format onnx'"
            )
        check(folder, self.export.files, remedy="export it again with 'hdrface export'")
        self._sessions = {
            name: open_session(folder / part.file, device)
            for name, part in self.export.parts.items()
        }
        self._prompt_LD: Tensor | None = None
        if "gate" not in self._sessions:
            self._prompt_LD = load_file(folder / PROMPT_FILE)["prompt"]
        self._first: RestoresFaces | None = None
        self.name, self.size = self.export.name, self.export.restorer.size
        self.licence = ", ".join(self.export.licences)
        # It lists the hash of every file.
        self.fingerprint = fingerprint or sha256_of(folder / EXPORT)
        self.device = device

    @property
    def intermediates(self) -> Intermediates:
        return "unused" if self._prompt_LD is not None else where_from(self._first)

    def build_on(self, intermediate: RestoresFaces) -> None:
        """Take first restorations from another restorer.

        Raises: ValueError if it has another size, or none are used.
        """
        check_first(intermediate, self.name, self.size, uses_one=self._prompt_LD is None)
        self._first = intermediate

    def restore(
        self,
        lq_B3HW: Tensor,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float | None = None,
        intermediate_B3HW: Tensor | None = None,
    ) -> Restoration:
        """Restore aligned faces, RGB in [0, 1]. Raises: ValueError, as the protocol says."""
        del fidelity  # nothing is drawn at random
        if lq_B3HW.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"this restorer takes faces of (3, {self.size}, {self.size}); "
                f"got {tuple(lq_B3HW.shape[1:])}: resize or align them first"
            )
        alpha_BHW = None
        if self._prompt_LD is not None:
            refuse_intermediates(self.name, intermediate_B3HW)
            condition_BND = self._prompt_LD.expand(lq_B3HW.shape[0], -1, -1)
        else:
            if intermediate_B3HW is None:
                intermediate_B3HW = self._restore_first(lq_B3HW, face_ids, variants)
            condition_BND, alpha_BHW = self._look(lq_B3HW, intermediate_B3HW)
        return Restoration(self._step(lq_B3HW, condition_BND), intermediate_B3HW, alpha_BHW)

    def _restore_first(
        self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]
    ) -> Tensor:
        if self._first is None:
            raise ValueError(
                f"{self.name} was exported without its first restorer: give first restorations "
                "with the faces, or name a restorer (--intermediate)"
            )
        return self._first.restore(lq_B3HW, face_ids, variants).restored_B3HW

    def _look(self, lq_B3HW: Tensor, first_B3HW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the condition, and the gate of each patch if there is one."""
        sr_BNC, lq_BNC = look_twice(
            lq_B3HW, first_B3HW, lambda pictures: self._run("encoder", picture=pictures)[0]
        )
        condition_BND, *gates = self._run("gate", sr_tokens=sr_BNC, lq_tokens=lq_BNC)
        if not gates:
            return condition_BND, None
        side = self.export.patches_per_side
        assert side is not None  # which an export with a gate has
        return condition_BND, gates[0][:, -side * side :].reshape(-1, side, side)

    def _step(self, lq_B3HW: Tensor, condition_BND: Tensor) -> Tensor:
        """Take the one step (METHOD, section 3)."""
        scaling, alpha_bar = self.export.scaling, self.export.alpha_bar
        (mean_BCHW,) = self._run("vae_encoder", signed=2 * lq_B3HW - 1)
        latent_BCHW = as_cached(scaling * mean_BCHW)
        (epsilon_BCHW,) = self._run("unet", latent=latent_BCHW, condition=condition_BND)
        restored_BCHW = (latent_BCHW - (1 - alpha_bar) ** 0.5 * epsilon_BCHW) / alpha_bar**0.5
        (signed_B3HW,) = self._run("vae_decoder", latent=restored_BCHW / scaling)
        return images.rounded((signed_B3HW + 1) / 2).to(lq_B3HW.device)

    def _run(self, part: str, **inputs: Tensor) -> list[Tensor]:
        """Run a part; the results are on the CPU."""
        session = self._sessions[part]
        wanted = {one.name for one in session.get_inputs()}  # `dino` and `lr` use one picture's
        given = {name: value.cpu().numpy() for name, value in inputs.items() if name in wanted}
        return [torch.from_numpy(one) for one in session.run(None, given)]
