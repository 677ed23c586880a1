"""Import the published weights of OSDFace (Wang et al., 2024): codes of the degraded face, SD 2.1.

    pytorch_lora_weights.safetensors    LoRA layers of SD 2.1's UNet, in two spellings
    embedding_change_weights.pth        from the codes' width to the UNet's
    associate_2.safetensors             the codebook and its encoder

The authors publish the last one as `associate_2.ckpt`, a pickle of a whole training, which is never
read here; docs/published.md has the lines that take the tensors out of it. The step is SD's own, at
the same timestep.
"""

from pathlib import Path

from components.backbones.stable_diffusion import StableDiffusion
from components.encoders import codebook
from components.fusion.condition import CodebookCondition
from components.restorers.hdrface import HDRFace
from components.restorers.importing import (
    SEED,
    compare_lora,
    refuse_existing,
    weights_need,
    write_imported,
)
from components.restorers.spec import RestorerSpec
from components.weights import lora
from components.weights.checkpoints import shapes_of
from components.weights.formats import PublishedFolder
from components.weights.licences import licence_of
from components.weights.store import open_weights

CHANGE_FILE = "embedding_change_weights.pth"
CODEBOOK_FILE = "associate_2.safetensors"


def import_osdface(
    source: Path,
    out: Path,
    *,
    base: Path,
    encoder: Path | None,
    intermediate: Path | None,
    size: int,
) -> dict[str, int]:
    """Write a trained folder with the published weights; return the tensors read of each file.

    Args:
        source: the authors' folder, with the converted codebook.
        out: the trained folder; must not exist.
        base: weights of Stable Diffusion 2.1-base, such as `data/weights/sd21`.
        encoder: must be None: OSDFace brings its own.
        intermediate: must be None: OSDFace sees the degraded face alone.
        size: pixels of a face.

    Raises: FileNotFoundError, FileExistsError; ValueError listing all tensors that do not fit, in
        which case nothing was written.
    """
    if encoder is not None or intermediate is not None:
        raise ValueError("OSDFace sees the degraded face alone: omit --encoder and --intermediate")
    refuse_existing(out)
    if not (source / CODEBOOK_FILE).is_file():
        raise FileNotFoundError(
            f"{source} holds no {CODEBOOK_FILE}: make it of the authors' associate_2.ckpt as "
            "docs/published.md shows; the .ckpt is a pickle of a whole training, which could run a "
            "program, and is never read here"
        )
    published = PublishedFolder.read(source, (lora.FILE, CHANGE_FILE, CODEBOOK_FILE))
    weights = open_weights(base)
    backbone = StableDiffusion(weights.root).float()
    codes, change = codebook.published(published.files[CODEBOOK_FILE]), published.files[CHANGE_FILE]
    condition = CodebookCondition.of_shapes(
        shapes_of(codes), shapes_of(change), backbone.condition_width
    )
    published.compare(CODEBOOK_FILE, codes, shapes_of(condition.codebook.state_dict()))
    published.compare(CHANGE_FILE, change, shapes_of(condition.projection.state_dict()))
    compare_lora(published, backbone)
    published.refuse_misfits()
    condition.codebook.load_state_dict(codes)
    condition.projection.load_state_dict(change)
    backbone.load_lora(source)
    spec = RestorerSpec(
        backbone="sd21",
        condition="codebook",
        trainable="lora",
        lora=lora.params_of(backbone.generator),
        size=size,
        seed=SEED,
        posterior="sample",  # as in the authors' training
    )
    return write_imported(
        HDRFace(spec, backbone, condition),
        out,
        published,
        layout="osdface",
        needs={"backbone": weights_need(base, weights, out)},
        licences=[f"OSDFace: {licence_of('OSDFace')}", weights.licence],
    )
