"""Networks of diffusers from their files, which are mapped into memory and not read.

A weight stays in the file's pages, in the file's own numbers, until someone uses it. So what is
never used is never read, and processes of one machine share the pages. Weights that are mapped so
are for reading: `components.weights.precision.settle` gives a training copies of its own.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from components.weights.checkpoints import misfits, shapes_of

FILE = "diffusion_pytorch_model.safetensors"


def load_network(
    kind: Any,
    folder: Path,
    *,
    trim: Callable[[Any], None] | None = None,
    unused: Collection[str] = (),
    spellings: Mapping[str, str] | None = None,
) -> Any:
    """Make a network from its folder in the published layout; its weights are mapped.

    Args:
        kind: diffusers' class of the network.
        folder: `config.json` and the weights, in one file or in shards with an index.
        trim: takes parts away that are not used, before weights are looked for.
        unused: words; a tensor with one of them in its name may lack a place in the network.
        spellings: older words in names of tensors -> the network's.

    Raises: FileNotFoundError naming a missing file; ValueError naming tensors that are missing,
        have no place or have another shape.
    """
    from accelerate import init_empty_weights

    # Buffers hold computed numbers that are in no file.
    with init_empty_weights(include_buffers=False):
        network = kind.from_config(kind.load_config(folder))
    if trim is not None:
        trim(network)
    places: Mapping[str, Tensor] = network.state_dict()
    tensors = {
        name: tensor
        for name, tensor in _mapped(_weight_files(folder), spellings or {})
        if name in places or not any(word in name for word in unused)
    }
    if wrong := misfits(shapes_of(places), shapes_of(tensors)):
        raise ValueError(
            f"{folder} does not fit its config.json: it {'; it '.join(wrong)}: fetch config and "
            "weights of the same network"
        )
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _weight_files(folder: Path) -> list[Path]:
    """List the files of the weights. Raises: FileNotFoundError naming one that is missing."""
    index = folder / f"{FILE}.index.json"
    names = {FILE}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    files = [folder / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            others = ", ".join(sorted(other.name for other in folder.glob("*.safetensors")))
            raise FileNotFoundError(
                f"{file} is missing, the folder holds {others or 'no safetensors'}: fetch it, or "
                "give one of the same content this name"
            )
    return files


def _mapped(files: Collection[Path], spellings: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as content:
            for written in content.keys():  # noqa: SIM118 - it is no mapping
                name = ".".join(spellings.get(word, word) for word in written.split("."))
                yield name, content.get_tensor(written)
