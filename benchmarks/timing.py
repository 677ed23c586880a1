"""A clock for networks and their parts, and what a device can do at most."""

import gc
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


class Clock:
    """Times calls, and within them those of watched parts; counts a call's operations.

    best: ms of the fastest call ("all"), and of its parts and what they leave over ("host").
    operations: of a call that was counted, multiply-adds twice, by part and in all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mode: str = "off"
        self._now: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.operations: dict[str, float] = {}

    def restart(self) -> None:
        """Forget the times that were measured."""
        self.best = {}

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as a part of what is timed."""

        def watched(*arguments: Any, **options: Any) -> Any:
            if self._mode == "off":
                return function(*arguments, **options)
            if self._mode == "count":
                with FlopCounterMode(display=False) as counter:
                    result = function(*arguments, **options)
                found = self.operations.get(name, 0) + counter.get_total_flops()
                self.operations[name] = found
                return result
            began = self._seconds()
            result = function(*arguments, **options)
            self._now[name] = self._now.get(name, 0.0) + 1000 * (self._seconds() - began)
            return result

        return watched

    def first(self, work: Callable[[], Any]) -> Any:
        """Run work once without timing it: caches fill, kernels are chosen or compiled."""
        self._mode = "off"
        return work()

    def count(self, work: Callable[[], Any]) -> Any:
        """Run work once and count the operations of its parts."""
        self._mode = "count"
        result = work()
        self.operations["all"] = sum(self.operations.values())
        return result

    def __call__(self, work: Callable[[], Any]) -> None:
        """Run work, and once more for its parts on a GPU, which waits at their ends."""
        whole = None
        if self._device.type == "cuda":
            self._mode = "off"
            whole = self._timed(work)
        self._mode, self._now = "time", {}
        watched = self._timed(work)
        self._keep("all", watched if whole is None else whole)
        for name, ms in {**self._now, "host": watched - sum(self._now.values())}.items():
            self._keep(name, ms)

    def _keep(self, name: str, ms: float) -> None:
        self.best[name] = min(ms, self.best.get(name, ms))

    def _timed(self, work: Callable[[], Any]) -> float:
        began = self._seconds()
        work()
        return 1000 * (self._seconds() - began)

    def _seconds(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def peak_flops(device: torch.device) -> float:
    """Return the operations per second of a large product of matrices, the fastest of some."""
    is_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if is_gpu else (1536, torch.float32)
    one = torch.randn(size, size, device=device, dtype=dtype)
    clock = Clock(device)
    for _ in range(20 if is_gpu else 5):
        clock(lambda: one @ one)
    return 2 * size**3 / (clock.best["all"] / 1000)


class Memory:
    """The most memory in use: of a GPU, what came since the start; else of the whole process."""

    def __init__(self, device: torch.device) -> None:
        self._is_gpu, self._before = device.type == "cuda", 0
        gc.collect()  # what was measured before holds itself
        if self._is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    def forget_peak(self) -> None:
        """Let a GPU's peak begin now; what is in use counts."""
        if self._is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        if self._is_gpu:
            return (torch.cuda.max_memory_allocated() - self._before) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # KiB on Linux
