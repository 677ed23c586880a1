"""A restorer folder: how a restorer is begun, written and loaded.

A trained one holds what was trained and names by hash all else that restoring takes:

    restorer.json            what it is, what it needs, lineage, licences, its files
    fusion.safetensors       SDFM                                    (condition `sdfm`)
    projection.safetensors   tokens to the backbone's width          (where the widths differ)
    codebook.safetensors     what finds the tokens                   (condition `codebook`)
    unet/ or transformer/    the generator, trained in full, or pytorch_lora_weights.safetensors,
                             or conditional_lora.safetensors and perhaps second_encoder.safetensors

One that holds another project's restorer is described in `components.restorers.catalogue`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.backbones.backbone import Backbone
from components.backbones.catalogue import FAMILIES
from components.encoders.dinov3 import DINOv3
from components.files import write_json
from components.fusion.condition import CodebookCondition, TextCondition, TokenCondition
from components.restorers import engine
from components.restorers.catalogue import kind_of, open_adopted, refuse_preview
from components.restorers.engine import Way
from components.restorers.hdrface import Condition, HDRFace
from components.restorers.int8_check import require_check
from components.restorers.protocol import RestoresFaces
from components.restorers.spec import Need, RestorerSpec
from components.restorers.together import Together, share, share_results
from components.weights.checkpoints import shapes_of
from components.weights.manifest import FORMAT, RESTORER, RESULTS, Description, seal
from components.weights.precision import InferencePrecision
from components.weights.prompt import PROMPT_FILE
from components.weights.store import WeightsFolder, find_need, open_model, open_weights

CPU = torch.device("cpu")
PartName = Literal["fusion", "projection", "codebook"]


def begin_restorer(
    spec: RestorerSpec,
    weights: WeightsFolder,
    *,
    token_width: int | None,
    time_vectors: bool = False,
) -> HDRFace:
    """Make what a training starts from: pretrained generator and fresh gate, both trainable.

    With `time_vectors`, the generator trains the vectors of its timestep and not the matrices that
    make them. Raises: ValueError if the condition takes tokens and their width is not given, or if
    it is not trained here.
    """
    backbone = FAMILIES[spec.backbone](weights.root)
    backbone.change_base(spec.mlp, spec.base_numbers)
    if time_vectors:
        backbone.fold_time()
    backbone.train_only(spec.trainable, spec.lora)
    condition: TextCondition | TokenCondition
    if spec.condition == "text":
        condition = TextCondition.load(weights.path(PROMPT_FILE))
    elif spec.condition == "codebook":
        raise ValueError(
            "condition 'codebook' is not trained, only imported: see docs/published.md"
        )
    elif token_width is None:
        raise ValueError(f"condition {spec.condition!r} takes tokens: their width is missing")
    else:
        condition = TokenCondition(spec.condition, token_width, backbone.condition_width)
    return HDRFace(spec, backbone, condition)


def save_restorer(
    restorer: HDRFace,
    folder: Path,
    *,
    needs: Mapping[str, Need],
    licences: Sequence[str],
    lineage: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    weights: Path | None = None,
) -> str:
    """Write a trained folder and return its fingerprint, the hash of its content.

    Args:
        restorer: what was trained.
        folder: made if it is not there.
        needs: `backbone`; for a condition of tokens also `encoder`, and `intermediate`, the first
            restorer, or `results`, a folder of first restorations. With neither of them, first
            restorations come with the faces.
        licences: of the weights that it stands on.
        lineage: commit, inputs and parameters, as JSON values.
        tensors: the trained ones by name, if the restorer does not hold them whole (sharded).
        weights: of the backbone, in the published layout; needed where the generator holds vectors
            of its timestep, as with `time_vectors` and in a loaded restorer.

    Raises: ValueError if the restorer was loaded in int8.
    """
    if restorer.precision == "int8":
        raise ValueError("int8 weights are not what was trained: save it from precision float32")
    folder.mkdir(parents=True, exist_ok=True)
    generator = None if tensors is None else _below("backbone.generator.", tensors)
    restorer.backbone.save_trained(folder, restorer.spec.trainable, generator, weights=weights)
    for name, part in _parts(restorer.condition).items():
        values = part.state_dict() if tensors is None else _below(f"condition.{name}.", tensors)
        save_file(values, folder / f"{name}.safetensors")
    content = {
        "format": FORMAT,
        **restorer.spec.model_dump(mode="json"),
        "needs": {role: need.model_dump() for role, need in needs.items()},
        "licences": sorted(set(licences)),
        "lineage": dict(lineage),
    }
    write_json(folder / RESTORER, content, sort_keys=True)
    return seal(folder)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def load_restorer(
    folder: Path,
    hints: Sequence[Path] = (),
    *,
    device: torch.device = CPU,
    precision: InferencePrecision = "float32",
    compile_for: Sequence[int] = (),
    together: Together | None = None,
    preview: Path | None = None,
) -> RestoresFaces:
    """Load a restorer folder, ready to restore, with everything that it names by hash.

    Its networks are prepared for inference (see `components.restorers.engine`).
    What it names is looked for at `hints`, where it lay last, and in the stores (see
    `components.weights.store`). What comes first is loaded with the same precision; a restorer of
    another project computes in float32 always.

    `compile_for`: batch sizes that its networks are compiled for, each when a batch of it first
    comes; another batch is filled up to the next of them, or cut. Restorers of other projects are
    not compiled.

    `together`: what models that are loaded with it have in common, they load and compute once.

    `preview`: the folder of a tiny decoder that decodes in place of the autoencoder's, for a quick
    and rough look. What comes first keeps its own decoder, since the condition is taken from it.

    With precision `int8`, the folder has to be checked (see `components.restorers.int8_check`). The
    check of a folder is of all that it names: its first restorer needs none of its own.

    Raises: FileNotFoundError or ValueError naming what is missing or damaged; ValueError if the
        folder was not checked in int8, or did not pass, or if there is no tiny decoder for such a
        restorer.
    """
    if precision == "int8":
        require_check(folder)
    how: dict[str, Any] = {"precision": precision, "compile_for": compile_for, "preview": preview}
    return load_unchecked(folder, hints, device=device, together=together, **how)


def load_unchecked(
    folder: Path,
    hints: Sequence[Path] = (),
    *,
    device: torch.device = CPU,
    precision: InferencePrecision = "float32",
    compile_for: Sequence[int] = (),
    together: Together | None = None,
    preview: Path | None = None,
) -> RestoresFaces:
    """Load a restorer folder as `load_restorer` does, in int8 without a check: to make one.

    Raises: as `load_restorer`.
    """
    described = open_model(folder)
    if kind_of(described) is not None:
        refuse_preview(str(folder), preview)
        return open_adopted(folder, described, device=device)
    way = Way(device, precision, tuple(compile_for))
    loading = _Loading(hints, way, together, preview=preview)
    return _load_trained(folder, described, loading)


def load_alone(folder: Path, hints: Sequence[Path] = ()) -> HDRFace:
    """Load a trained folder as `load_restorer` does, but without its first restorer.

    Raises: as `load_restorer`; ValueError if the folder is another project's restorer.
    """
    described = open_model(folder)
    if kind_of(described) is not None:
        raise ValueError(f"{folder} is another project's restorer: name a folder that was trained")
    return _load_trained(folder, described, _Loading(hints, Way(CPU), None, alone=True))


@dataclass(frozen=True)
class _Loading:
    """What a caller of `load_restorer` or `load_alone` asked for."""

    hints: Sequence[Path]
    way: Way
    together: Together | None
    alone: bool = False  # without what comes first
    preview: Path | None = None  # the folder of a tiny decoder

    def key(self, need: Mapping[str, Any]) -> tuple[str, Way]:
        """Return what networks must have in common to be one for several models."""
        return need["fingerprint"], self.way


def _load_trained(folder: Path, described: Description, loading: _Loading) -> HDRFace:
    spec, needs = RestorerSpec.of(described.content), described.needs
    found = {
        role: find_need(folder, need, loading.hints)
        for role, need in needs.items()
        if role != RESULTS and not (loading.alone and role == "intermediate")
    }
    own = [FAMILIES[spec.backbone].generator_folder] if spec.trainable == "full" else []
    weights = open_weights(found["backbone"], replaced=own)
    backbone = _load_backbone(spec, folder, weights)
    encoder: DINOv3 | None = None
    intermediate: RestoresFaces | None = None
    condition: Condition
    if spec.condition == "codebook":
        condition = _load_codebook(folder, backbone.condition_width)
    elif spec.encoder_size is None:
        condition = TextCondition.load(weights.path(PROMPT_FILE))
    else:
        size = spec.encoder_size
        encoder = _load_encoder(found["encoder"], needs["encoder"], size, loading)
        intermediate = _load_first(folder, needs, found.get("intermediate"), loading)
        condition = TokenCondition(spec.condition, encoder.width, backbone.condition_width)
        for name, part in _parts(condition).items():
            part.load_state_dict(load_file(folder / f"{name}.safetensors"))
    restorer = HDRFace(
        spec,
        backbone,
        condition,
        encoder=encoder,
        intermediate=intermediate,
        fingerprint=described.fingerprint,
    )
    engine.prepare(restorer, loading.way, preview=loading.preview)
    if not loading.alone:
        engine.suit_processor(restorer, loading.way)
    if spec.trainable != "conditional_lora":  # which may have an encoder of its own
        key = loading.key(needs["backbone"])
        share_results(loading.together, ("latents", key), backbone, "encode")
        share_results(loading.together, ("moments", key), backbone, "moments")
    return restorer


def _load_encoder(place: Path, need: Mapping[str, Any], size: int, loading: _Loading) -> DINOv3:
    root = open_weights(place).root
    return share(
        loading.together,
        ("tokens", size, loading.key(need)),
        lambda: engine.prepare_encoder(DINOv3(root, input_size=size), loading.way),
        "forward",
    )


def _load_first(
    folder: Path,
    needs: Mapping[str, Mapping[str, Any]],
    intermediate: Path | None,
    loading: _Loading,
) -> RestoresFaces | None:
    """Load what restores first; None if first restorations come with the faces."""
    if intermediate is not None:
        way, together = loading.way, loading.together
        return share(
            together,
            ("restored", loading.key(needs["intermediate"])),
            lambda: load_unchecked(intermediate, loading.hints, **way.asdict(), together=together),
            "restore",
        )
    if RESULTS in needs and not loading.alone:
        return _results(folder, needs[RESULTS], loading.hints, loading.way.device)
    return None


def _results(
    folder: Path, need: Mapping[str, Any], hints: Sequence[Path], device: torch.device
) -> RestoresFaces | None:
    """Open the first restorations of the faces that a folder was trained and tested with.

    None if they are not here: new faces bring theirs.
    """
    try:
        return load_restorer(find_need(folder, need, hints), device=device)
    except FileNotFoundError:
        return None


def _load_backbone(spec: RestorerSpec, folder: Path, weights: WeightsFolder) -> Backbone:
    family = FAMILIES[spec.backbone]
    if spec.trainable == "full":
        backbone = family(weights.root, generator=folder / family.generator_folder)
    else:
        backbone = family(weights.root)
        backbone.change_base(spec.mlp, spec.base_numbers)
        backbone.load_low_rank(folder, spec.trainable, spec.lora)
    return backbone


def _load_codebook(folder: Path, condition_width: int) -> CodebookCondition:
    codebook, projection = (
        load_file(folder / f"{part}.safetensors") for part in ("codebook", "projection")
    )
    condition = CodebookCondition.of_shapes(
        shapes_of(codebook), shapes_of(projection), condition_width
    )
    condition.codebook.load_state_dict(codebook)
    condition.projection.load_state_dict(projection)
    return condition


def _parts(condition: Condition) -> dict[PartName, nn.Module]:
    """Return what a folder holds of a condition, by the file's name."""
    parts: dict[PartName, nn.Module] = {}
    if isinstance(condition, TextCondition):
        return parts
    if isinstance(condition, CodebookCondition):
        return {"codebook": condition.codebook, "projection": condition.projection}
    if condition.fusion is not None:
        parts["fusion"] = condition.fusion
    if not isinstance(condition.projection, nn.Identity):
        parts["projection"] = condition.projection
    return parts
