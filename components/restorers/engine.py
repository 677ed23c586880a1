"""How the networks of a trained folder are prepared for inference: the one place that does it.

`load_restorer` and `load_alone` call it. So commands, stages, the endpoint and the pipeline of
diffusers all restore with the same networks. A training prepares its own.
"""

import torch

from components.backbones.upsampling import use_phases
from components.restorers.hdrface import HDRFace
from components.weights import lora
from components.weights.precision import Precision, settle


def prepare(restorer: HDRFace, device: torch.device, precision: Precision) -> HDRFace:
    """Make a restorer that was just opened ready to restore on `device`, in place; return it.

    Nothing trains any more. Low-rank layers become part of the weights that they change, except
    conditional ones, which act on half of the tokens. What depends on the fixed timestep alone
    becomes constants. What enlarges in the decoder multiplies less. Such a restorer is the same
    function, and cannot be saved as it was trained.

    With `bf16`, matrices of generator, autoencoder and encoder are stored in bfloat16 and computed
    in it. The gate, normalisations and the restorer that comes first keep their numbers.
    """
    backbone = restorer.backbone
    if restorer.spec.trainable == "lora":
        lora.merge(backbone.generator)
    backbone.fold_time()
    use_phases(backbone.vae.decoder)
    restorer.eval().requires_grad_(requires_grad=False)
    restorer.precision = precision
    if precision == "bf16":
        settle(backbone.modules(), precision, device)
        if restorer.encoder is not None:
            settle(restorer.encoder.modules(), precision, device)
    return restorer.to(device)
