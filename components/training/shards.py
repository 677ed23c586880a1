"""The tensors of a sharded network in a checkpoint: each rank writes its shards, any number reads.

    SIDE/shard-R-model-*.safetensors    the shards of rank R, and where in the tensors they lie

It is PyTorch's distributed checkpoint in its safetensors form: no pickle, and no file that belongs
to all ranks, so ranks may write into folders that are merged afterwards.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards


def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's shards; what all ranks have, one of them writes. All ranks must call it."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _plain_errors():
        save_shards(dict(tensors), storage_writer=writer)


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read this rank's shards into `tensors`, whichever ranks wrote them. All ranks must call it.

    Raises: ValueError if the checkpoint has other names or shapes.
    """
    found = sizes(folder)
    if differing := sorted(tensors.keys() ^ found.keys()):
        raise ValueError(
            f"{folder} is of another model: {len(differing)} names, e.g. {differing[0]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != found[name]:
            shapes = f"{tuple(found[name])}, not {tuple(tensor.shape)}"
            raise ValueError(f"{folder} is of another model: {name} has shape {shapes}")
    with _plain_errors():
        load_shards(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


def sizes(folder: Path) -> dict[str, torch.Size]:
    """Return the whole shape of every tensor of a checkpoint, by name."""
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: tensor.size
        for name, tensor in stored.items()
        if isinstance(tensor, TensorStorageMetadata)
    }


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise RuntimeError for PyTorch's own error, which no `except Exception` would catch."""
    try:
        yield
    except CheckpointException as error:
        raise RuntimeError(f"checkpoint: {error}") from error
