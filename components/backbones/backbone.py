"""What a family of generators must offer to restore a face in one step.

All that the code asks a family for stands in its class: how it is opened, encodes, steps and
decodes; what trains and in which layout that is published; how its prompt is encoded; how a small
stand-in is made.

B batch, C latent channels, H and W: of the image in `image_B3HW`, of the latent in `latent_BCHW`.
N condition tokens, D condition width.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from components.backbones import conditional_lora, fixed_time
from components.backbones.color_fix import ColorFix
from components.backbones.conditional_lora import BaseNumbers, Mlp
from components.backbones.fixed_time import TimePath
from components.backbones.tiny_decoder import TinyDecoder
from components.keyed_random import Key, normals
from components.weights import lora
from components.weights.lora import LoraParams

Trainable = Literal["full", "lora", "conditional_lora"]
Posterior = Literal["mean", "sample"]  # what of an encoded picture's distribution is its latent


@dataclass(frozen=True)
class StepNoise:
    """The random part of one step; backbones that add none ignore it.

    noise_BCHW: standard normal, of the latent's shape.
    condition_sigma_B: noise level of the condition latent in [0, 1]; 0 leaves it clean.
    """

    noise_BCHW: Tensor
    condition_sigma_B: Tensor


class Backbone(nn.Module, ABC):
    """A pretrained latent generator and its autoencoder, used for one fixed step.

    Images are RGB in [0, 1]; latents are already scaled as the generator expects them.
    """

    generator_folder: ClassVar[str]  # in the published layout, and the prefix of LoRA's keys
    lora_targets: ClassVar[Sequence[str]]  # the published ones
    trains: ClassVar[Sequence[Trainable]] = ("full", "lora")  # in one of these ways
    takes_noise: ClassVar[bool]  # and so a fidelity
    samples_posterior: ClassVar[bool] = False  # whether `moments` can be asked for
    color_fix: ClassVar[ColorFix]  # the paper's at inference (METHOD, section 7)
    text_encoder: ClassVar[str]  # `model_type` of the one that its prompts are encoded by
    discriminator: ClassVar[str]  # its opponent in training: a name of `discriminators.catalogue`

    @abstractmethod
    def __init__(self, weights: Path, *, generator: Path | None = None) -> None:
        """Load a diffusers folder; a generator that was trained in full has its own folder."""
        super().__init__()

    @classmethod
    def of_sizes(cls, vae: Mapping[str, Any], generator: Mapping[str, Any]) -> Self:
        """Make the family without a folder: on the meta device, to count what it costs."""
        with torch.device("meta"):
            made_vae = cls.make_vae(vae)
            made_generator, condition_width = cls.make_generator(generator)
        family = cls.__new__(cls)
        nn.Module.__init__(family)
        family.hold(made_vae, made_generator, condition_width)
        return family.to("meta")  # buffers too

    def hold(self, vae: Any, generator: Any, condition_width: int) -> None:
        """Take the two networks, frozen; called by every family's `__init__`."""
        self.vae = vae.eval()
        self.generator = generator
        # Else the folder is saved with it, and is another one on another machine.
        self.generator.register_to_config(_name_or_path="")
        self.vae.requires_grad_(requires_grad=False)
        self.generator.requires_grad_(requires_grad=False)
        self.condition_width = condition_width

    @abstractmethod
    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Return the scaled posterior mean, without gradient: (B, 3, H, W) -> (B, C, h, w)."""

    def moments(self, image_B3HW: Tensor) -> Tensor:
        """Return the scaled posterior's mean, and after it its deviation: (B, 2C, h, w).

        Without gradient. `sampled` makes a latent of them.

        Raises: ValueError for a family that takes posterior means only.
        """
        del image_B3HW
        raise ValueError(f"{type(self).__name__} takes posterior means only: set posterior: mean")

    @abstractmethod
    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        """Take the one step from the degraded latent to the restored one, of the same shape."""

    def decoder_blocks(self) -> list[nn.Module]:
        """List the parts of the decoder that come one after another and hold its activations."""
        return [self.vae.decoder.mid_block, *self.vae.decoder.up_blocks]

    @abstractmethod
    def generator_blocks(self) -> list[nn.Module]:
        """List the parts of the generator that come one after another and hold its weights."""

    @abstractmethod
    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Return the image of a scaled latent, not clamped; gradients flow to the latent."""

    def training_noise(
        self, lq_latent_BCHW: Tensor, generator: torch.Generator, *, clean_condition: float
    ) -> StepNoise | None:
        """Draw what a step adds at random; the condition stays clean with this probability."""
        del lq_latent_BCHW, generator, clean_condition
        return None

    def invention(self, noise: StepNoise | None) -> Tensor:
        """Return how far each step may leave its condition, from 0: sigma_cond / sigma, (B,).

        Raises: ValueError for a family whose condition is never noised.
        """
        del noise
        raise ValueError(
            f"{type(self).__name__} conditions no step on noise: set "
            "losses.adversarial.fidelity_aware to false"
        )

    def inference_noise(self, noise_BCHW: Tensor, fidelity: float) -> StepNoise | None:
        """Arrange given noise for a fidelity in [0, 1]; 1 stays closest to the degraded face."""
        del noise_BCHW, fidelity
        return None

    def drop_encoder(self) -> None:
        """Leave the autoencoder its decoding half, for a training on latents that are there."""
        for name in encoding_parts(self.vae):
            delattr(self.vae, name)

    def load_tiny_decoder(self, folder: Path) -> TinyDecoder:
        """Load the tiny decoder of a folder that decodes this family's latents.

        Raises: FileNotFoundError or ValueError naming what is wrong with the folder; ValueError
            for a family that has none in the layout of diffusers' AutoencoderTiny.
        """
        del folder
        raise ValueError(
            f"{type(self).__name__} has no tiny decoder in the layout of AutoencoderTiny: restore "
            "without --preview"
        )

    def use_tiny_decoder(self, folder: Path) -> None:
        """Decode roughly from now on, by the tiny decoder of a folder; the encoder stays.

        Raises: as `load_tiny_decoder`.
        """
        self.tiny_decoder = self.load_tiny_decoder(folder)
        kept = encoding_parts(self.vae)
        for name in [name for name, _ in self.vae.named_children() if name not in kept]:
            delattr(self.vae, name)
        self.decode = self.tiny_decoder.forward  # type: ignore[method-assign]

    def drop_generator(self) -> None:
        """Leave the autoencoder alone, for who makes latents."""
        del self.generator

    def train_only(self, trainable: Trainable, lora_params: LoraParams | None) -> None:
        """Freeze everything but what trains; adds low-rank layers unless it is `full`.

        Raises: ValueError if low-rank layers are asked for and not described, or if the family
            does not train so.
        """
        if trainable not in self.trains:
            raise ValueError(f"{type(self).__name__} does not train as {trainable}")
        if trainable == "full":
            self.generator.requires_grad_(requires_grad=True)
            self.freeze_unused()
            return
        if lora_params is None:
            raise ValueError(
                f"trainable is {trainable!r} but the lora section (rank, alpha) is missing"
            )
        add = conditional_lora.add if trainable == "conditional_lora" else lora.add
        add(self.generator, lora_params, self.lora_targets)

    def freeze_unused(self) -> None:
        """Freeze what feeds nothing: without a gradient, DDP would wait for it."""

    def time_path(self, generator: Any) -> TimePath | None:
        """Find the layers of such a generator that depend on the fixed timestep alone.

        None for a family without a timestep.
        """
        del generator
        return None

    def fold_time(self) -> None:
        """Replace what depends on the fixed timestep alone by its vectors, and free the rest.

        The generator is called as before. Does nothing for a family without a timestep, or a second
        time.
        """
        path = None if fixed_time.is_folded(self.generator) else self.time_path(self.generator)
        if path is not None:
            fixed_time.fold(self.generator, path)

    def repeated_blocks(self) -> list[nn.Module]:
        """List blocks of one class and shape, which compile as one: the step then needs no more."""
        return []

    def allow_compiling(self, size: int) -> None:
        """Replace what torch.compile cannot compile, for pictures `size` pixels wide."""

    def num_only_time(self) -> int:
        """Count the parameters that `fold_time` would free."""
        path = self.time_path(self.generator)
        if path is None or fixed_time.is_folded(self.generator):
            return 0
        return fixed_time.num_freed(self.generator, path)

    def save_trained(
        self,
        folder: Path,
        trainable: Trainable,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        weights: Path | None = None,
    ) -> None:
        """Write what was trained, in the published format.

        Args:
            folder: the trained folder.
            trainable: what trained.
            tensors: those of the generator by name, if it does not hold them whole (sharded).
            weights: the pretrained weights' folder; a generator of vectors needs its matrices.

        Raises: ValueError if the generator holds vectors and cannot be published.
        """
        is_folded = fixed_time.is_folded(self.generator)
        if trainable == "conditional_lora" and not is_folded:
            conditional_lora.save(self.generator, folder, tensors)
            return
        if trainable == "lora" and not is_folded:
            lora.save(self.generator, folder, self.generator_folder, self.lora_writer(), tensors)
            return
        generator = self.generator if tensors is None else self._generator_with(tensors)
        if is_folded:
            self._save_vectors(generator, folder, trainable, weights)
        else:
            generator.save_pretrained(folder / self.generator_folder, safe_serialization=True)

    def _generator_with(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return a generator as ours that holds these tensors."""
        generator = self._empty_generator()
        if fixed_time.is_folded(self.generator):
            path = self.time_path(generator)
            assert path is not None  # else nothing was folded
            fixed_time.fold(generator, path)
        generator.load_state_dict(tensors, assign=True)
        return generator

    def _empty_generator(self) -> Any:
        """Make a generator of the same sizes on the meta device, unfolded and not sharded."""
        sizes = {key: self.generator.config[key] for key in self.generator.config if key[0] != "_"}
        with torch.device("meta"):
            generator, _ = self.make_generator(sizes)
        generator.register_to_config(_name_or_path="")
        return generator

    def _save_vectors(
        self, generator: Any, folder: Path, trainable: Trainable, weights: Path | None
    ) -> None:
        if trainable != "full" or weights is None:
            raise ValueError(
                "the generator holds vectors in place of the layers of its timestep, as a loaded "
                "restorer does: low-rank layers cannot be saved from it, a generator that was "
                "trained in full only with `weights`, the folder that the training began with"
            )
        whole = self._empty_generator()
        path = self.time_path(whole)
        assert path is not None  # else nothing was folded
        published = weights / self.generator_folder
        with fixed_time.unfolded(generator, whole, path, published):
            generator.save_pretrained(folder / self.generator_folder, safe_serialization=True)

    def load_low_rank(
        self, folder: Path, trainable: Trainable, lora_params: LoraParams | None
    ) -> None:
        """Add the low-rank layers of a trained folder."""
        if trainable == "lora":  # it describes itself
            self.load_lora(folder)
        else:
            self.train_only(trainable, lora_params)
            conditional_lora.load(self.generator, folder)

    def load_lora(self, folder: Path) -> None:
        """Add the LoRA layers of a folder in the published layout."""
        lora.load(self.generator, folder, self.generator_folder)

    def change_base(self, mlp: Mlp, numbers: BaseNumbers) -> None:
        """Make the frozen generator the one that the weights to load were trained on.

        Raises: ValueError if the family has no other.
        """
        if (mlp, numbers) != ("gelu", "stored"):
            raise ValueError(f"{type(self).__name__} has no {mlp} on numbers that are {numbers}")

    def noise_shape(self, latent_BCHW: Tensor) -> tuple[int, ...]:
        """Return the shape of a row's noise for what `encode` returned."""
        return tuple(latent_BCHW.shape[1:])

    @classmethod
    @abstractmethod
    def lora_writer(cls) -> Any:
        """Return diffusers' class whose `save_lora_weights` writes this family's LoRA layers."""

    @classmethod
    @torch.no_grad()
    def prompt(cls, layout: Path, text: str) -> Tensor:
        """Embed `text` by `text_encoder/` and `tokenizer/` of a diffusers folder: float32 (L, D).

        Raises: ValueError if the text encoder is of another kind.
        """
        config = json.loads((layout / "text_encoder" / "config.json").read_text(encoding="utf-8"))
        if (kind := config.get("model_type")) != cls.text_encoder:
            raise ValueError(
                f"{layout / 'text_encoder'} is a {kind!r}: prompts of {cls.__name__} are encoded "
                f"by a {cls.text_encoder!r}"
            )
        return cls.encode_prompt(layout, text).float()

    @staticmethod
    @abstractmethod
    def encode_prompt(layout: Path, text: str) -> Tensor:
        """Embed `text` as the family's own pipeline does: (L, D)."""

    @classmethod
    @abstractmethod
    def make_vae(cls, sizes: Mapping[str, Any]) -> Any:
        """Make an autoencoder of the published class with new weights; sizes are its arguments."""

    @staticmethod
    @abstractmethod
    def encode_mean(vae: Any, signed_B3HW: Tensor) -> Tensor:
        """Return the unscaled posterior mean of pictures in [-1, 1]; gradients flow."""

    @staticmethod
    @abstractmethod
    def decode_signed(vae: Any, latent_BCHW: Tensor) -> Tensor:
        """Return the picture of an unscaled latent, about in [-1, 1]; gradients flow."""

    @staticmethod
    @abstractmethod
    def scale_latents(vae: Any, latent_BCHW: Tensor) -> None:
        """Note in the autoencoder's configuration how such latents become standard normal."""

    @classmethod
    @abstractmethod
    def make_generator(cls, sizes: Mapping[str, Any]) -> tuple[Any, int]:
        """Make a generator with new weights that predicts nothing yet; also return its D."""

    @classmethod
    def save_schedule(cls, folder: Path) -> None:
        """Write what the published layout holds beside the two networks."""
        del folder


def encoding_parts(vae: nn.Module) -> list[str]:
    """List the parts of an autoencoder that only `encode` uses."""
    return [name for name, _ in vae.named_children() if name not in ("decoder", "post_quant_conv")]


def sampled(moments_BCHW: Tensor, keys: Sequence[Key]) -> Tensor:
    """Return mean + deviation · noise, the noise drawn by one key for each row.

    Shape: (B, 2C, h, w) -> (B, C, h, w).
    """
    mean_BCHW, deviation_BCHW = moments_BCHW.chunk(2, dim=1)
    noise_BCHW = torch.from_numpy(normals(keys, tuple(mean_BCHW.shape[1:])))
    return mean_BCHW + deviation_BCHW * noise_BCHW.to(mean_BCHW)
