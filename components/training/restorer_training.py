"""A restorer's training: what travels to the workers, what they build of it, and its result."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field

from components.discriminators.catalogue import DISCRIMINATORS
from components.discriminators.discriminator import Discriminator
from components.params import Params, Recomputable
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need, RestorerSpec
from components.training import loop
from components.training.adversary import Adversary, DiscriminatorParams
from components.training.loop import Opponent
from components.training.optimization import OptimizationParams
from components.training.parallel import (
    Parallel,
    Sharding,
    check_trained,
    is_sharded,
    move_rest,
    unsharded,
    whole_tensors,
)
from components.training.recomputing import recomputing
from components.training.seat import TRAINED, Seat
from components.training.step import LossParams, TrainingStep
from components.training.streams import Batches
from components.training.training_params import TrainingParams
from components.training.validation import ValidationParams, watching
from components.training.validation_faces import ValidationFace
from components.weights.precision import Precision, settle
from components.weights.shared import SharedFile, SharedFolder, share, share_file
from components.weights.store import open_weights


class RestorerTraining(Params):
    """One training: with its rows, all that the trained folder follows from."""

    spec: RestorerSpec
    losses: LossParams
    identity_network: SharedFile | None  # of the identity loss, if there is one
    optimization: OptimizationParams
    clean_condition: float
    weights: SharedFolder  # of the backbone
    discriminator: DiscriminatorParams | None = None
    discriminator_weights: SharedFolder | None = None
    precision: Precision = "float32"
    parallel: Parallel = "ddp"
    time_vectors: bool = False
    validation: ValidationParams | None = None
    token_width: int | None = None
    needs: Mapping[str, Need]  # of the trained folder
    licences: tuple[str, ...]
    lineage: Mapping[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(
        cls,
        params: TrainingParams,
        spec: RestorerSpec,
        *,
        token_width: int | None = None,
        needs: Mapping[str, Need],
        licences: tuple[str, ...],
        lineage: Mapping[str, Any],
    ) -> Self:
        """Make the training that parameters ask for; networks that workers read become shared."""
        identity, discriminator = params.losses.identity, params.opponent()
        return cls(
            spec=spec,
            losses=params.losses,
            identity_network=None if identity is None else share_file(identity.network),
            clean_condition=params.clean_condition,
            precision=params.precision,
            parallel=params.parallel,
            time_vectors=params.time_vectors,
            optimization=params.optimization,
            validation=params.validation,
            weights=share(params.weights),
            discriminator=discriminator,
            discriminator_weights=None if discriminator is None else share(discriminator.weights),
            token_width=token_width,
            needs=needs,
            licences=licences,
            lineage=lineage,
        )

    def start(
        self,
        device: torch.device,
        recompute: Collection[Recomputable] = (),
        *,
        offload: bool = False,
    ) -> tuple[TrainingStep, Opponent | None]:
        """Build what is trained and its opponent: the same on every rank and in every attempt.

        `recompute` names what keeps no activations for the backward pass; `offload` keeps the
        weights of a sharded training in the host's memory.
        """
        torch.manual_seed(self.optimization.seed)
        restorer = begin_restorer(
            self.spec,
            open_weights(self.weights.local()),
            token_width=self.token_width,
            time_vectors=self.time_vectors,
        )
        if self.spec.condition != "text" and self.validation is None:
            restorer.backbone.drop_encoder()  # its latents are in the table of features
        discriminator = self._discriminator(restorer)
        if self.parallel == "fsdp":
            _shard(restorer, discriminator, Sharding(device, self.precision, offload))
        self._settle(restorer, discriminator, device)
        adversary = self._adversary(discriminator)
        step = TrainingStep(
            restorer,
            self._local_losses(),
            clean_condition=self.clean_condition,
            adversary=adversary,
            precision=self.precision,
        )
        move_rest(step, device)
        _keep_no_activations(step, adversary, recompute)
        if adversary is None or self.discriminator is None:
            return step, None
        move_rest(adversary, device)
        return step, Opponent(adversary, self.discriminator.optimization)

    def _local_losses(self) -> LossParams:
        """Return the losses with the identity network where this worker has it."""
        identity = self.losses.identity
        if identity is None or self.identity_network is None:
            return self.losses
        local = identity.model_copy(update={"network": self.identity_network.local()})
        return self.losses.model_copy(update={"identity": local})

    def _discriminator(self, restorer: HDRFace) -> Discriminator | None:
        params, weights = self.discriminator, self.discriminator_weights
        if self.losses.adversarial is None or params is None or weights is None:
            return None
        return DISCRIMINATORS[restorer.backbone.discriminator](
            open_weights(weights.local()).root,
            restorer.backbone.condition_width,
            params,
        )

    def _settle(
        self, restorer: HDRFace, discriminator: Discriminator | None, device: torch.device
    ) -> None:
        """Bring what is not sharded to the device, in the numbers that it is kept in."""
        weights = self.optimization.weights
        settle(unsharded(restorer.backbone), self.precision, device, trained=weights)
        settle(unsharded(restorer.condition), self.precision, device)
        if discriminator is not None and self.discriminator is not None:
            weights = self.discriminator.optimization.weights
            settle(unsharded(discriminator), self.precision, device, trained=weights)

    def _adversary(self, discriminator: Discriminator | None) -> Adversary | None:
        if discriminator is None or self.losses.adversarial is None:
            return None
        return Adversary(discriminator, self.losses.adversarial, precision=self.precision)

    def train(
        self,
        step: TrainingStep,
        opponent: Opponent | None,
        batches: Callable[[int], Batches],
        faces: Sequence[ValidationFace],
        seat: Seat,
    ) -> None:
        """Train what `start` made, as `loop.train` does; a validation restores `faces`.

        The last checkpoint has the trained folder as `TRAINED`.
        """
        with watching(self.validation, step, faces, seat) as validation:
            loop.train(
                step,
                batches,
                self.optimization,
                seat,
                opponent=opponent,
                export=lambda folder: self.export(
                    step, folder / TRAINED, is_first_rank=seat.rank == 0
                ),
                validation=validation,
            )

    def export(self, step: TrainingStep, folder: Path, *, is_first_rank: bool) -> None:
        """Write the trained folder, on the first rank. All ranks of a training must call it.

        Vectors of time become the published layers again.
        """
        tensors = None
        if is_sharded(step.restorer):
            trained_only = self.spec.trainable != "full"
            tensors = whole_tensors(step.restorer, trained_only=trained_only)
        if is_first_rank:
            weights = open_weights(self.weights.local()).root if self.time_vectors else None
            save_restorer(
                step.restorer,
                folder,
                needs=self.needs,
                licences=self.licences,
                lineage=self.lineage,
                tensors=tensors,
                weights=weights,
            )


def _shard(restorer: HDRFace, discriminator: Discriminator | None, sharding: Sharding) -> None:
    """Shard what is large or trained; the autoencoder and the networks of losses are neither."""
    backbone, condition = restorer.backbone, restorer.condition
    sharding.shard(backbone.generator, backbone.generator_blocks())
    if any(parameter.requires_grad for parameter in condition.parameters()):
        sharding.shard(condition)
    check_trained(restorer)
    if discriminator is not None:
        sharding.shard(discriminator, discriminator.blocks())


def _keep_no_activations(
    step: TrainingStep, adversary: Adversary | None, parts: Collection[Recomputable]
) -> None:
    backbone = step.restorer.backbone
    if "generator" in parts:
        backbone.generator.enable_gradient_checkpointing()
    if "decoder" in parts:
        recomputing(backbone.decoder_blocks())
    if "losses" in parts:
        recomputing(step.image_losses.values())
    if "discriminator" in parts and adversary is not None:
        adversary.discriminator.network.enable_gradient_checkpointing()
