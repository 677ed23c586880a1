"""The fixed text condition: one prompt, encoded once by the backbone's own text encoder.

No text encoder runs afterwards (METHOD, section 2).
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

# Key `prompt`: (L tokens, width), float32. Of SDXL also `pooled`: (width,).
PROMPT_FILE = "prompt.safetensors"
REFERENCE_PROMPT = (
    "high quality portrait photo, detailed face, sharp focus, professional photography"
)


def write_prompt(encoded: Mapping[str, Tensor], text: str, file: Path) -> None:
    """Write the tensors of an encoded prompt as float32, with its text in the file's metadata."""
    tensors = {name: tensor.float().contiguous() for name, tensor in encoded.items()}
    save_file(tensors, file, metadata={"text": text})
