"""Memory of a thread that is used again and again, on a CPU."""

import threading
from math import prod

import torch
from torch import Tensor

_MOST = 2**27  # numbers of one name, 512 MB: what only a large batch needs is given back
_kept = threading.local()


def scratch(name: str, *shape: int) -> Tensor:
    """Return float32 memory by its name, with any numbers in it.

    It is this thread's, and what was there before under that name is lost. glibc gives large
    tensors back to the system, which fills new ones with zeros, page by page.
    """
    size = prod(shape)
    if size > _MOST:
        return torch.empty(shape)
    kept: Tensor | None = getattr(_kept, name, None)
    if kept is None or kept.numel() < size:
        with torch.inference_mode(mode=False):  # it may be used outside of that mode later
            kept = torch.empty(size)
        setattr(_kept, name, kept)
    return kept[:size].view(shape)
