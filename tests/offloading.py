"""Whether every network of a folder moves when diffusers moves a pipeline."""

from pathlib import Path

import numpy as np
import PIL.Image
from torch import nn

from components.restorers.pipeline import HDRFacePipeline


def assert_offloads(folder: Path, size: int) -> None:
    """Check that all weights belong to components, and that offloading changes no result."""
    pipe = HDRFacePipeline.from_pretrained(folder)
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    moved = {id(weight) for part in parts for weight in part.parameters()}
    assert moved == {id(weight) for weight in pipe.opened.restorer.parameters()}
    pixels = np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)
    face = PIL.Image.fromarray(pixels)
    expected = np.asarray(pipe(face).images[0], int)
    pipe.enable_model_cpu_offload(device="cpu:0")  # stands for a GPU
    assert np.abs(np.asarray(pipe(face).images[0], int) - expected).max() <= 1
