"""A trained folder as a pipeline of diffusers.

    pipe = HDRFacePipeline.from_pretrained("models/sd21-sdfm").to("cuda")
    pipe(PIL.Image.open("face.png")).images[0].save("restored.png")

B batch, h and w of the gate's patches.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MethodType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.outputs import BaseOutput
from torch import nn

from components import images
from components.backbones.color_fix import ColorFix
from components.fusion.condition import CodebookCondition
from components.images import Image
from components.restorers.color_fix import fix_colors
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace
from components.weights.manifest import RESTORER
from components.weights.precision import InferencePrecision
from components.weights.store import carried, closure, packed

_PRECISIONS: Mapping[torch.dtype, InferencePrecision] = {
    torch.float32: "float32",
    torch.bfloat16: "bf16",
    torch.int8: "int8",
}
Pictures = PIL.Image.Image | Sequence[PIL.Image.Image]


@dataclass
class HDRFaceOutput(BaseOutput):
    """Restored faces; the gate of each patch, (B, h, w) in [0, 1], None for a model without one.

    The gate is 1 where details come from the first restoration, 0 where structure comes from the
    degraded face.
    """

    images: list[PIL.Image.Image]
    gate: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class OpenedFolder:
    """A trained folder, other folders that hold what it names, and the restorer made of them."""

    folder: Path
    hints: tuple[Path, ...]
    restorer: HDRFace


class HDRFacePipeline(DiffusionPipeline):
    """Restore aligned faces with a trained folder; every network is a component of its own.

    `to` and `enable_model_cpu_offload` are diffusers' own. Components: `vae`, and `unet` or
    `transformer`; where the folder has them, `encoder` (DINOv3), `second_encoder` (Qwen-Image's),
    `condition` (gate and projection) and `intermediate`, the whole restorer that comes first,
    unless it is an ONNX file or a folder of pictures. `opened` holds them together.

    `save_pretrained` copies the folder that was opened, with all that it names below `needs/`, and
    not a `model_index.json` with a folder for each component. The networks in memory are not what
    was trained: their timestep is folded into constants, which diffusers' classes cannot load. And
    only the folder's own description has the hashes that are verified whenever it is opened.
    """

    # It is declared as None. The second encoder needs a layer of `vae`, which was called before it.
    model_cpu_offload_seq = "->".join(  # type: ignore[assignment]
        ["intermediate", "encoder", "second_encoder", "condition", "unet", "transformer", "vae"]
    )
    _optional_components = [  # noqa: RUF012
        *("unet", "transformer", "encoder", "second_encoder", "condition", "intermediate")
    ]

    def __init__(
        self,
        opened: OpenedFolder,
        vae: nn.Module,
        unet: nn.Module | None = None,
        transformer: nn.Module | None = None,
        encoder: nn.Module | None = None,
        second_encoder: nn.Module | None = None,
        condition: nn.Module | None = None,
        intermediate: nn.Module | None = None,
    ) -> None:
        """Take the networks of an opened folder, as `from_pretrained` gives them."""
        super().__init__()
        self.register_modules(  # type: ignore[no-untyped-call]
            opened=opened,
            vae=vae,
            unet=unet,
            transformer=transformer,
            encoder=encoder,
            second_encoder=second_encoder,
            condition=condition,
            intermediate=intermediate,
        )
        _announce_calls(opened.restorer)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a folder, and what it names
        cls,
        folder: str | PathLike[str],
        *,
        hints: Sequence[Path] = (),
        torch_dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Open a trained folder on the CPU, to compute in float32 or, if asked for, in bfloat16.

        With `torch.int8`, it also computes in bfloat16, and keeps the matrices of the generator's
        linear layers in 8 bits; `hdrface check` has to allow it first.

        What it names by hash is looked for below its `needs/`, at `hints`, where it lay at the time
        of its training, and in this machine's stores.

        Raises: FileNotFoundError or ValueError naming what is missing or damaged; ValueError for
            another project's restorer, for another dtype, or for int8 without a check.
        """
        if torch_dtype not in _PRECISIONS:
            raise ValueError(
                f"torch_dtype={torch_dtype}: give torch.float32, torch.bfloat16 or torch.int8"
            )
        place = Path(folder)
        known = (*hints, *carried(place))
        restorer = load_restorer(place, known, precision=_PRECISIONS[torch_dtype])
        if not isinstance(restorer, HDRFace):
            raise ValueError(
                f"{place} holds {restorer.name}, of another project, which is no pipeline: "
                f"'hdrface restore --model {place}' runs it"
            )
        backbone = restorer.backbone
        return cls(
            opened=OpenedFolder(place, known, restorer),
            vae=backbone.vae,
            **{backbone.generator_folder: backbone.generator},
            encoder=None if restorer.encoder is None else restorer.encoder.network,
            second_encoder=getattr(backbone, "second_encoder", None),
            condition=_with_weights(restorer.condition),
            intermediate=_with_weights(restorer.intermediate),
        )

    def save_pretrained(  # type: ignore[override]  # files that are copied get no shards
        self,
        save_directory: str | PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> None:
        """Copy the folder that was opened, with all that it names, to where nothing else is.

        `from_pretrained` and `hdrface restore --model` open the copy on any machine. What was
        changed in memory is not saved.

        Raises: FileExistsError if a trained folder is there; FileNotFoundError or ValueError if a
            file is missing or damaged; ValueError for pickles or a variant.
        """
        if not safe_serialization or variant is not None:
            raise ValueError("a trained folder is saved as it is: safetensors, without a variant")
        target = Path(save_directory)
        if (target / RESTORER).exists():
            raise FileExistsError(f"{target} holds a trained folder already: name a new folder")
        opened = self.opened
        for place, file in packed(list(closure(opened.folder, opened.hints))):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / place)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the networks to a device. Raises: ValueError for a dtype that they do not have."""
        asked = next((value for value in (*args, *kwargs.values()) if _is_dtype(value)), None)
        precision = self.opened.restorer.precision
        if asked is not None and _PRECISIONS.get(asked) != precision:
            told = "give a device only, and torch_dtype to `from_pretrained`"
            raise ValueError(f"to({asked}): these networks compute in {precision}; {told}")
        named = {key: value for key, value in kwargs.items() if not _is_dtype(value)}
        super().to(*(value for value in args if not _is_dtype(value)), **named)
        return self

    @torch.no_grad()
    def __call__(
        self,
        image: Pictures,
        intermediate: Pictures | None = None,
        fidelity: float | None = None,
        color_fix: ColorFix | None = None,
        generator: torch.Generator | None = None,
    ) -> HDRFaceOutput:
        """Restore faces, all in one batch.

        Args:
            image: aligned faces, as FFHQ's are; square pictures are resized to the model's size.
            intermediate: a first restoration of each face, in place of the model's own; needed by
                a folder that names no first restorer.
            fidelity: in [0, 1], for models on Qwen-Image; lower values invent more.
            color_fix: none, adain or wavelet; None is the model's own. The colours are those of the
                first restoration, or of the degraded face if there is none.
            generator: draws what is random. Without one, a face gets the same result each time.

        Raises: ValueError naming the picture or the argument that does not fit.
        """
        restorer = self.opened.restorer
        _check_fidelity(restorer, fidelity)
        faces = _squares("image", image, restorer.size)
        device = self._execution_device
        _move_constants(restorer, self.components.values(), device)
        lq_B3HW = images.to_tensor(faces, device)
        first_B3HW = None
        if intermediate is not None:
            first = _squares("intermediate", intermediate, restorer.size)
            if len(first) != len(faces):
                raise ValueError(f"intermediate has {len(first)} pictures, image has {len(faces)}")
            first_B3HW = images.to_tensor(first, device)
        keys = _keys(faces, restorer, generator)
        done = restorer.restore(
            lq_B3HW, keys, [0] * len(keys), fidelity=fidelity, intermediate_B3HW=first_B3HW
        )
        reference_B3HW = lq_B3HW if done.intermediate_B3HW is None else done.intermediate_B3HW
        how = restorer.color_fix if color_fix is None else color_fix
        fixed_B3HW = fix_colors(done.restored_B3HW, reference_B3HW, how)
        self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]
        return HDRFaceOutput(
            images=[PIL.Image.fromarray(face) for face in images.from_tensor(fixed_B3HW)],
            gate=None if done.alpha_BHW is None else done.alpha_BHW.float().cpu().numpy(),
        )


def _with_weights(part: Any) -> nn.Module | None:
    """Return a part that can be moved: the others hold no weights, or are no modules."""
    return part if isinstance(part, nn.Module) and any(True for _ in part.parameters()) else None


def _is_dtype(value: object) -> bool:
    return isinstance(value, torch.dtype)


def _announce_calls(restorer: HDRFace) -> None:
    """Let offloading see the calls that are not `forward`, which is all that accelerate watches."""
    announced: Any = apply_forward_hook
    backbone: Any = restorer.backbone
    backbone.encode_mean = announced(backbone.encode_mean)  # takes the autoencoder first
    backbone.decode_signed = announced(backbone.decode_signed)
    if isinstance(restorer.condition, CodebookCondition):
        condition: Any = restorer.condition
        condition.find = MethodType(announced(type(condition).find), condition)
    if _with_weights(restorer.intermediate) is not None:
        first: Any = restorer.intermediate
        first.restore = MethodType(announced(type(first).restore), first)


def _move_constants(restorer: HDRFace, components: Any, device: torch.device) -> None:
    """Move the buffers that belong to no component: a prompt, the scales of latents and pixels."""
    networks = [part for part in components if isinstance(part, nn.Module)]
    moved = {module for network in networks for module in network.modules()}
    for module in restorer.modules():
        if module not in moved:
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))


def _check_fidelity(restorer: HDRFace, fidelity: float | None) -> None:
    if fidelity is None:
        return
    if restorer.fidelity is None and fidelity != 1:
        raise ValueError(f"fidelity = {fidelity}: {restorer.name} accepts only 1")
    if not 0 <= fidelity <= 1:
        raise ValueError(f"fidelity = {fidelity}: must be in [0, 1]")


def _squares(argument: str, given: Pictures, size: int) -> list[Image]:
    """Read pictures at the model's size, uint8 (size, size, 3)."""
    pictures = [given] if isinstance(given, PIL.Image.Image) else list(given)
    if not pictures:
        raise ValueError(f"{argument} is an empty list: give at least one picture")
    squares = []
    for number, picture in enumerate(pictures):
        if picture.width != picture.height:
            raise ValueError(
                f"{argument}[{number}] is {picture.width} x {picture.height}: this takes aligned "
                "faces, which are square; 'hdrface restore' finds and aligns them in photographs"
            )
        squares.append(images.resize(images.from_pil(picture), size))
    return squares


def _keys(
    faces: Sequence[Image], restorer: HDRFace, generator: torch.Generator | None
) -> list[str]:
    """Name each face for what is drawn at random: by its pixels, or by a number that is drawn."""
    if generator is None:
        return [hashlib.sha256(face.tobytes()).hexdigest() for face in faces]
    if restorer.spec.noise_of == "seed":
        raise ValueError(
            f"generator: {restorer.name} has one noise for all faces (noise_of: seed), which "
            "its own seed draws; give no generator"
        )
    drawn = torch.randint(2**63 - 1, (len(faces),), generator=generator, device=generator.device)
    return [str(number) for number in drawn.tolist()]
