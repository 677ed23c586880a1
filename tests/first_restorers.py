"""First restorers of other projects for small trained folders: results on disk, or any restorer."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from components import images
from components.weights.manifest import seal
from components.weights.store import open_model
from tests.small_networks import SIZE


def write_results(folder: Path, stems: Sequence[str], size: int = SIZE) -> Tensor:
    """Write a random picture for each name; return them as tensors."""
    drawn = torch.rand(len(stems), 3, size, size, generator=torch.Generator().manual_seed(4))
    for stem, picture in zip(stems, images.from_tensor(drawn), strict=True):
        file = folder / f"{stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(images.encode_png(picture))
    return images.rounded(drawn)


def give_first(folder: Path, role: str, first: Path) -> None:
    """Let a trained folder name another first restorer, as the stage `train` would have."""
    file = folder / "restorer.json"
    content = json.loads(file.read_text())
    needs = {key: need for key, need in content["needs"].items() if key != "intermediate"}
    fingerprint = open_model(first).fingerprint
    needs[role] = {"name": first.name, "fingerprint": fingerprint, "hint": str(first)}
    file.write_text(json.dumps({**content, "needs": needs}))
    seal(folder)
