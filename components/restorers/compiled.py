"""Functions of tensors, compiled for the batch sizes that are served.

torch.compile writes a program for one shape. So a batch of another size is filled up to the next of
the given sizes, with copies of its last row, and one that is larger than all of them is cut. On a
GPU, the program's kernels are recorded once for each size, as a CUDA graph, and played again: then
a call costs one launch and not thousands.

`torch.compile`'s own graphs ("reduce-overhead") belong to the thread that made them in versions of
PyTorch that are still in use, and the endpoint computes in any thread: so graphs are made here.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_WARM_UPS = 3  # calls before a recording: libraries choose their kernels in the first ones
# PyTorch gives up after 8 programs of one function, and all models of a family share its functions.
_MAX_PROGRAMS = 128


class Compiled:
    """A function of tensors that have the batch first, compiled for batches of fixed sizes.

    Shape: (B, ...) each -> (B, ...). The first call at a size takes seconds to minutes.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        sizes: Sequence[int],
        *,
        blocks: Sequence[nn.Module] = (),
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        """Prepare; nothing is compiled yet.

        Args:
            function: takes tensors of one batch size.
            sizes: of batches.
            blocks: modules of one class that the function calls. They are compiled in its place:
                one program serves all of them, where the function's own would take very long.
            backend: of torch.compile.

        Raises: ValueError if a size is not positive.
        """
        if not sizes or min(sizes) < 1:
            raise ValueError(f"batch sizes = {list(sizes)}: give positive ones")
        how: Any = {"dynamic": False, "backend": backend, "recompile_limit": _MAX_PROGRAMS}
        self._sizes = sorted(set(sizes))
        self._program = function
        for block in blocks:
            block.compile(**how)
        if not blocks:
            self._program = torch.compile(function, **how)
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        self._alone = threading.Lock()  # a recording has one place for its arguments

    def __call__(self, *tensors: Tensor) -> Tensor:
        most = self._sizes[-1]
        starts = range(0, tensors[0].shape[0], most)
        pieces = [[tensor[start : start + most] for tensor in tensors] for start in starts]
        done = [self._piece(piece) for piece in pieces]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _piece(self, tensors: Sequence[Tensor]) -> Tensor:
        count = tensors[0].shape[0]
        size = next(size for size in self._sizes if size >= count)
        filled = [_filled(tensor, size) for tensor in tensors]
        if filled[0].device.type != "cuda":
            return self._program(*filled)[:count]
        with self._alone:
            return self._recording(filled)(filled)[:count].clone()

    def _recording(self, tensors: Sequence[Tensor]) -> "_Recorded":
        numbers = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (numbers, *((tensor.shape, tensor.dtype) for tensor in tensors))
        if key not in self._recorded:
            self._recorded[key] = _Recorded(self._program, tensors)
        return self._recorded[key]


class _Recorded:
    """A program's kernels for one shape, with the places of its arguments and of its result."""

    def __init__(self, program: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
        self._arguments = [tensor.contiguous().clone() for tensor in tensors]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                program(*self._arguments)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread may load a new version of a model meanwhile: only this one must not.
        with torch.cuda.graph(self._graph, pool=_pool(), capture_error_mode="thread_local"):
            self._result = program(*self._arguments)

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Compute; the next call writes over the result."""
        for place, tensor in zip(self._arguments, tensors, strict=True):
            place.copy_(tensor)
        self._graph.replay()
        return self._result


def powers_of_two(most: int) -> list[int]:
    """Return the batch sizes 1, 2, 4, ... up to `most`: at most half of a batch is filling."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def _filled(tensor: Tensor, size: int) -> Tensor:
    if not (missing := size - tensor.shape[0]):
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])


_pools: list[Any] = []


def _pool() -> Any:
    """Return the memory that all recordings share: they are played one after the other."""
    if not _pools:
        _pools.append(torch.cuda.graph_pool_handle())
    return _pools[0]
