"""How the networks of a trained folder are prepared for inference: the one place that does it.

`load_restorer` and `load_alone` call it. So commands, stages, the endpoint and the pipeline of
diffusers all restore with the same networks. A training prepares its own.
"""

import torch

from components.restorers.hdrface import HDRFace
from components.weights import lora


def prepare(restorer: HDRFace, device: torch.device) -> HDRFace:
    """Make a restorer that was just opened ready to restore on `device`, in place; return it.

    Nothing trains any more. Low-rank layers become part of the weights that they change, except
    conditional ones, which act on half of the tokens. What depends on the fixed timestep alone
    becomes constants. Such a restorer is the same function, and cannot be saved as it was trained.
    """
    if restorer.spec.trainable == "lora":
        lora.merge(restorer.backbone.generator)
    restorer.backbone.fold_time()
    return restorer.eval().requires_grad_(requires_grad=False).to(device)
