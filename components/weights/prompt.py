"""The fixed text condition: one prompt, encoded once by the backbone's own text encoder.

No text encoder runs afterwards (METHOD, section 2).
"""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

PROMPT_FILE = "prompt.safetensors"  # key `prompt`: (L tokens, width), float32
REFERENCE_PROMPT = (
    "high quality portrait photo, detailed face, sharp focus, professional photography"
)


def write_prompt(prompt_LD: Tensor, text: str, file: Path) -> None:
    """Write an encoded prompt as float32, with its text in the file's metadata."""
    save_file({"prompt": prompt_LD.float().contiguous()}, file, metadata={"text": text})
