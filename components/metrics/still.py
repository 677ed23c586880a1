"""Conditions under which scoring twice gives the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SEED = 0


@contextmanager
def still() -> Iterator[None]:
    """Compute without gradients, in full float32, with a fixed seed; then put all back.

    TF32 keeps 10 of 23 bits on a GPU, and a cuDNN that tries algorithms may choose another one
    each time. The caller's random numbers go on as if nothing had been computed.
    """
    cuda: Any = torch.cuda
    cudnn: Any = torch.backends.cudnn
    settings = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = cudnn.benchmark, cudnn.deterministic, [one.fp32_precision for one in settings]
    devices = [cuda.current_device()] if cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(_SEED)
        cudnn.benchmark, cudnn.deterministic = False, True
        for one in settings:
            one.fp32_precision = "ieee"
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before[:2]
            for one, precision in zip(settings, before[2], strict=True):
                one.fp32_precision = precision
