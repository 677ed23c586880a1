"""A restorer's training, as it travels to the workers: what to build, to teach and to write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from components.params import Params
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.spec import Need, RestorerSpec
from components.training.optimization import OptimizationParams
from components.training.step import LossParams, TrainingStep
from components.weights.shared import SharedFile, SharedFolder
from components.weights.store import open_weights


class RestorerTraining(Params):
    """One training: with its rows, all that the trained folder follows from."""

    spec: RestorerSpec
    losses: LossParams
    identity_network: SharedFile | None  # of the identity loss, if there is one
    optimization: OptimizationParams
    clean_condition: float
    weights: SharedFolder  # of the backbone
    token_width: int | None = None
    needs: Mapping[str, Need]  # of the trained folder
    licences: tuple[str, ...]
    lineage: Mapping[str, Any] = Field(default_factory=dict)

    def start(self, device: torch.device) -> TrainingStep:
        """Build what is trained: the same on every rank and in every attempt."""
        torch.manual_seed(self.optimization.seed)
        losses = self.losses
        if losses.identity is not None and self.identity_network is not None:
            network = {"network": self.identity_network.local()}
            identity = losses.identity.model_copy(update=network)
            losses = losses.model_copy(update={"identity": identity})
        restorer = begin_restorer(
            self.spec, open_weights(self.weights.local()), token_width=self.token_width
        )
        return TrainingStep(restorer, losses, clean_condition=self.clean_condition).to(device)

    def export(self, step: TrainingStep, folder: Path) -> None:
        """Write the trained folder."""
        save_restorer(
            step.restorer,
            folder,
            needs=self.needs,
            licences=self.licences,
            lineage=self.lineage,
        )
