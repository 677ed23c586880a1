"""How long a trained folder takes for a face, against a plain loop over the same networks.

    python -m benchmarks.inference [--tiny] [--device cuda] [--compile] [--rounds 3] [--minutes 8]

It makes networks with random weights in a temporary folder, in the published sizes of Stable
Diffusion 2.1 and DINOv3-L, with low-rank layers and the gate; `--tiny` makes small ones. It needs
neither Ray nor MLflow. Both sides restore the same faces from pixels to pixels, with given first
restorations, in turns in one process:

    engine   what `load_restorer` gives: float32 on a CPU, bf16 on a GPU, all faces in one batch;
             with --compile, and always on a GPU, once more compiled; on a GPU (and with --tiny)
             also in int8, without the check that a trained folder needs
    plain    the networks of diffusers and transformers as the authors' code calls them: one face
             after the other, the encoder for each picture, low-rank layers beside the weights,
             the timestep embedded in each call; float32, and on a GPU also float16

It also measures the decoder alone, `full_ms`, and the tiny one of a preview, `tiny_ms`, on the same
latents. On a GPU, it measures the engine with Qwen-Image, made on the GPU, as the first restorer.

A time is that of the fastest turn, in ms for the whole batch. Parts are timed in turns of their
own, since a GPU has to wait at each of their ends; `host` is what the parts leave over.
`share_of_peak` is operations, counted on the plain side for one face, over time and over the
fastest product of matrices of the same run. `peak_gb` is a GPU's memory for the engine alone, or
that of the process with both sides; Qwen-Image's is counted from when its weights, which are made
there in bf16, are prepared. Results are written after each measurement; none begins after
--minutes.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.random_restorer import (
    FULL,
    TINY,
    Sizes,
    first_restorer,
    make_folder,
    make_tiny_decoder,
)
from benchmarks.timing import Clock, Memory, peak_flops
from components import files, images
from components.backbones.stable_diffusion import TIMESTEP, StableDiffusion
from components.encoders.dinov3 import DINOv3
from components.fusion.condition import TokenCondition
from components.images import Image
from components.photographs.face_restorer import FaceRestorer
from components.restorers import engine as engines
from components.restorers.folder import load_alone, load_unchecked
from components.restorers.hdrface import HDRFace
from components.weights.precision import InferencePrecision, computing

Row = dict[str, Any]
_PATCH = 16  # pixels of one colour
_MIN_PSNR = 25.0  # dB, of the same faces in fewer bits; faces of other noise are 10 dB apart


class PlainLoop:
    """The reference's way: the libraries' own networks, one face after the other."""

    def __init__(
        self, root: Path, encoder_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        family = StableDiffusion(root / "sd21").float()
        family.load_lora(root / "model")
        family = family.to(device, dtype)
        self.vae, self.unet = family.vae, family.generator.eval()
        self.encoder = DINOv3(root / "dinov3", input_size=encoder_size).to(device, dtype)
        condition = load_alone(root / "model").condition
        assert isinstance(condition, TokenCondition)
        self.condition = condition.to(device, dtype)
        self.alpha_bar, self._device, self.dtype = family.alpha_bar, device, dtype

    def watch(self, clock: Clock) -> None:
        """Let a clock time the parts from now on."""
        encoder, vae, unet = self.encoder, self.vae, self.unet
        encoder.forward = clock.watch("DINOv3", encoder.forward)  # type: ignore[method-assign]
        vae.encode = clock.watch("encoder", vae.encode)
        unet.forward = clock.watch("backbone", unet.forward)
        vae.decode = clock.watch("decoder", vae.decode)

    @torch.no_grad()
    def __call__(self, faces: Sequence[Image], firsts: Sequence[Image]) -> list[Image]:
        """Restore faces with their first restorations."""
        return [self._restore(*pair) for pair in zip(faces, firsts, strict=True)]

    def _restore(self, face: Image, first: Image) -> Image:
        lq, sr = (images.to_tensor([one]).to(self._device) for one in (face, first))
        condition, _ = self.condition(self.encoder(sr), self.encoder(lq))
        scaling = self.vae.config.scaling_factor
        signed = (2 * lq - 1).to(self.dtype)
        latent: Tensor = scaling * self.vae.encode(signed).latent_dist.mean
        timestep = torch.tensor([TIMESTEP], device=self._device)
        epsilon = self.unet(latent, timestep, encoder_hidden_states=condition).sample
        clean = (latent - (1 - self.alpha_bar) ** 0.5 * epsilon) / self.alpha_bar**0.5
        picture = (self.vae.decode(clean / scaling).sample + 1) / 2
        return images.from_tensor(picture)[0]


def watch(restorer: HDRFace, clock: Clock) -> None:
    """Let a clock time the parts of a prepared restorer from now on."""
    backbone, encoder = restorer.backbone, restorer.encoder
    assert encoder is not None  # the folder has one
    encoder.forward = clock.watch("DINOv3", encoder.forward)  # type: ignore[method-assign]
    backbone.encode = clock.watch("encoder", backbone.encode)  # type: ignore[method-assign]
    backbone.step = clock.watch("backbone", backbone.step)  # type: ignore[method-assign]
    backbone.decode = clock.watch("decoder", backbone.decode)  # type: ignore[method-assign]


class Bench:
    """Measures batches on one device, and keeps the rows."""

    def __init__(self, root: Path, sizes: Sizes, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        self.precision: InferencePrecision = "bf16" if device.type == "cuda" else "float32"
        self.peak = peak_flops(device)
        self._root, self._sizes = root, sizes
        self._model = make_folder(sizes, root)
        self._tiny_decoder = make_tiny_decoder(sizes, root / "tiny-decoder")
        # On a CPU, float16 takes ten times as long as float32.
        dtypes = [torch.float32, *([torch.float16] if device.type == "cuda" else [])]
        size = sizes["encoder"]["image_size"]
        self._plain = {dtype: PlainLoop(root, size, device, dtype) for dtype in dtypes}
        self._clocks = {dtype: Clock(device) for dtype in dtypes}
        for dtype, plain in self._plain.items():
            plain.watch(self._clocks[dtype])

    def engine(
        self,
        compile_for: Sequence[int],
        precision: InferencePrecision,
        preview: Path | None = None,
    ) -> HDRFace:
        restorer = load_unchecked(
            self._model,
            device=self.device,
            precision=precision,
            compile_for=compile_for,
            preview=preview,
        )
        assert isinstance(restorer, HDRFace)
        return restorer

    def sd_alone(
        self, compile_for: Sequence[int], batch: int, precision: InferencePrecision
    ) -> Iterator[Row]:
        """Let both sides restore a batch in turns; give a row for the whole and for each part.

        Raises: RuntimeError if they do not restore the same faces.
        """
        memory, clock = Memory(self.device), Clock(self.device)
        restorer = self.engine(compile_for, precision)
        watch(restorer, clock)
        faces, firsts = self._faces(batch)
        ours = FaceRestorer(restorer, batch_size=batch)
        found = clock.first(lambda: ours.restore(faces, intermediates=firsts))
        used = memory.peak_gb()
        for dtype, plain in self._plain.items():
            self._clocks[dtype].restart()
            wanted = self._clocks[dtype].first(partial(plain, faces, firsts))
            self._compare([one.image for one in found], wanted, dtype, precision)
        for _ in range(self.rounds):
            clock(lambda: ours.restore(faces, intermediates=firsts))
            for dtype, plain in self._plain.items():
                self._clocks[dtype](partial(plain, faces, firsts))
        exact = self._clocks[torch.float32]
        if not exact.operations:
            exact.count(lambda: self._plain[torch.float32](faces[:1], firsts[:1]))
        about: Row = {"batch": batch, "compiled": bool(compile_for), "peak_gb": round(used, 2)}
        about["precision"] = precision
        for what, ms in clock.best.items():
            operations = exact.operations.get(what)
            yield self._row(what, ms, exact.best[what], operations, **about)
        if torch.float16 in self._clocks:
            half = self._clocks[torch.float16].best["all"]
            yield self._row("all, plain float16", clock.best["all"], half, None, **about)

    def qwen_first(
        self, compile_for: Sequence[int], batch: int, precision: InferencePrecision
    ) -> Iterator[Row]:
        """Measure the engine alone, with Qwen-Image as its first restorer."""
        memory, clock = Memory(self.device), Clock(self.device)
        restorer = self.engine(compile_for, precision)
        first = first_restorer(self._sizes, self.device)
        way = engines.Way(self.device, precision, tuple(compile_for))
        restorer.build_on(engines.prepare(first, way))
        memory.forget_peak()
        faces, _ = self._faces(batch)
        ours = FaceRestorer(restorer, batch_size=batch)
        clock.first(lambda: ours.restore(faces))
        for _ in range(self.rounds):
            clock(lambda: ours.restore(faces))
        used = round(memory.peak_gb(), 2)
        about: Row = {"batch": batch, "compiled": bool(compile_for), "peak_gb": used}
        about["precision"] = precision
        yield self._row("all, Qwen-Image first", clock.best["all"], None, None, **about)

    @torch.no_grad()
    def decoders(self, compile_for: Sequence[int], batch: int) -> Iterator[Row]:
        """Measure the decoder and the tiny one of a preview on the same latents, in turns."""
        previews = {"full_ms": None, "tiny_ms": self._tiny_decoder}
        decode = {
            name: self.engine(compile_for, self.precision, preview).backbone.decode
            for name, preview in previews.items()
        }
        side = self._sizes["size"] // 8
        latent = torch.randn(batch, 4, side, side, device=self.device)
        clocks = {name: Clock(self.device) for name in decode}
        with computing(self.precision, self.device):
            for name, clock in clocks.items():
                clock.first(partial(decode[name], latent))
            for _ in range(self.rounds):
                for name, clock in clocks.items():
                    clock(partial(decode[name], latent))
        took = {name: round(clock.best["all"], 1) for name, clock in clocks.items()}
        yield {
            **{"what": "decoder, full and tiny", "device": self.device.type, "batch": batch},
            **took,
            "ratio": round(clocks["full_ms"].best["all"] / clocks["tiny_ms"].best["all"], 2),
            **{"precision": self.precision, "compiled": bool(compile_for)},
        }

    def _faces(self, batch: int) -> tuple[list[Image], list[Image]]:
        # Patches of colour: noise of single pixels is taken for a grey picture, and kept grey.
        side = self._sizes["size"] // _PATCH
        shape = (2, batch, side, side, 3)
        drawn = np.random.default_rng(batch).integers(256, size=shape, dtype=np.uint8)
        first, second = drawn.repeat(_PATCH, axis=2).repeat(_PATCH, axis=3)
        return list(first), list(second)

    def _row(
        self, what: str, ms: float, plain_ms: float | None, operations: float | None, **about: Any
    ) -> Row:
        done = None if operations is None else operations * about["batch"]
        share = done and round(1000 * done / ms / self.peak, 3)
        return {
            **{"what": what, "device": self.device.type, "batch": about["batch"]},
            **{"engine_ms": round(ms, 1), "plain_ms": plain_ms and round(plain_ms, 1)},
            **{"ratio": plain_ms and round(plain_ms / ms, 3), "peak_gb": about["peak_gb"]},
            **{"precision": about["precision"], "compiled": about["compiled"]},
            "share_of_peak": share,
        }

    def _compare(
        self,
        found: Sequence[Image],
        wanted: Sequence[Image],
        dtype: torch.dtype,
        precision: InferencePrecision,
    ) -> None:
        difference = np.stack(found).astype(float) - np.stack(wanted)
        largest, mse = np.abs(difference).max(), np.square(difference / 255).mean()
        psnr = -10 * np.log10(mse + 1e-8)
        print(f"to {dtype}: at most {largest:g} of 255, {psnr:.1f} dB", file=sys.stderr)
        # Random networks make much of small differences: single pixels say little.
        is_exact = precision == "float32" and dtype == torch.float32
        if largest > 2 if is_exact else psnr < _MIN_PSNR:
            raise RuntimeError(f"the two sides are {psnr:.1f} dB apart: not the same faces")


def plan(arguments: argparse.Namespace, bench: Bench) -> Iterator[Iterator[Row]]:
    """Give the measurements, the ones that take longest last."""
    is_gpu = arguments.device == "cuda"
    batches = (1, 16) if is_gpu or arguments.tiny else (1,)
    ways: list[Sequence[int]] = [(), *([batches] if is_gpu or arguments.compile else [])]
    precisions: list[InferencePrecision] = [bench.precision]
    if is_gpu or arguments.tiny:
        precisions.append("int8")
    for compile_for in ways:
        for batch in batches:
            for precision in precisions:
                yield bench.sd_alone(compile_for, batch, precision)
    for compile_for in ways:
        yield bench.decoders(compile_for, 1)
    if is_gpu or arguments.tiny:
        batch = 8 if is_gpu else 2
        for precision in precisions:
            yield bench.qwen_first((), batch, precision)
        if ways[1:]:
            for precision in precisions:
                yield bench.qwen_first((batch,), batch, precision)


def _write(before: Mapping[str, Any], bench: Bench, rows: Sequence[Row]) -> None:
    command = f"python -m benchmarks.inference {shlex.join(sys.argv[1:])}".strip()
    facts = {**before, "peak_tflops": round(bench.peak / 1e12, 2)}
    if bench.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    content = {"command": command, "machine": facts, "rows": rows}
    files.write_json(machine.RESULTS / "inference.json", content)


def main() -> None:
    """Measure, print and write the result; it is written after each measurement."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="small networks; writes no result")
    parser.add_argument("--compile", action="store_true", help="on a CPU also compiled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    before, device = machine.facts(), torch.device(arguments.device)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = TINY if arguments.tiny else FULL
        bench = Bench(Path(folder), sizes, device, arguments.rounds)
        for measured in plan(arguments, bench):
            if time.monotonic() - began > 60 * arguments.minutes:
                print("the minutes are over: the rest is not measured", file=sys.stderr)
                break
            for row in measured:
                rows.append(row)
                print(json.dumps(row), flush=True)
            if not arguments.tiny:
                _write(before, bench, rows)


if __name__ == "__main__":
    main()
