"""Modules that say where their weights are, as diffusers asks of a pipeline's components."""

import torch
from torch import nn


class PlacedModule(nn.Module):
    """A module with weights, all on one device and of one dtype."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
