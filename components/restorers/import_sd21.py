"""Import HDRFace's published weights for Stable Diffusion 2.1 (METHOD, sections 2 and 3).

fusion.pth                          SDFM
pytorch_lora_weights.safetensors    LoRA layers of the UNet, perhaps in two spellings
"""

from pathlib import Path

from components.backbones.stable_diffusion import StableDiffusion
from components.fusion.condition import TokenCondition
from components.restorers.hdrface import HDRFace
from components.restorers.importing import (
    SEED,
    compare_lora,
    refuse_existing,
    stand_on,
    write_imported,
)
from components.restorers.spec import RestorerSpec
from components.weights import lora
from components.weights.checkpoints import shapes_of
from components.weights.formats import FUSION_FILE, PublishedFolder


def import_sd21(
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
        source: the authors' folder.
        out: the trained folder; must not exist.
        base: weights of Stable Diffusion 2.1-base, such as `data/weights/sd21`.
        encoder: weights of DINOv3-L, such as `data/weights/dinov3`.
        intermediate: the first restorer, a restorer folder; None: its results come with the faces.
        size: pixels of a face.

    Raises: FileNotFoundError, FileExistsError; ValueError listing all tensors that do not fit, in
        which case nothing was written.
    """
    refuse_existing(out)
    published = PublishedFolder.read(source, (FUSION_FILE, lora.FILE))
    standing = stand_on(base, encoder, intermediate, out, size=size)
    backbone = StableDiffusion(standing.backbone).float()
    condition = TokenCondition("sdfm", standing.token_width, backbone.condition_width)
    assert condition.fusion is not None  # since it is `sdfm`
    fusion = published.files[FUSION_FILE]
    published.compare(FUSION_FILE, fusion, shapes_of(condition.fusion.state_dict()))
    if standing.token_width != backbone.condition_width:
        published.wrong.append(
            f"{encoder} makes tokens {standing.token_width} wide, and {base} takes "
            f"{backbone.condition_width}: no published file lies between them"
        )
    compare_lora(published, backbone)
    published.refuse_misfits()
    condition.fusion.load_state_dict(fusion)
    backbone.load_lora(source)
    spec = RestorerSpec(
        backbone="sd21",
        condition="sdfm",
        trainable="lora",
        lora=lora.params_of(backbone.generator),
        size=size,
        encoder_size=standing.encoder_size,
        seed=SEED,
        posterior="sample",  # as in the reference's training
    )
    return write_imported(
        HDRFace(spec, backbone, condition),
        out,
        published,
        layout="sd21",
        needs=standing.needs,
        licences=standing.licences,
    )
