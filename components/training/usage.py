"""How much memory a training process takes, for the history.

The names begin with `system/`: MLflow's UI shows such metrics in a tab of their own.
"""

import resource
import sys

import torch

from components.history import SYSTEM, HistoryPoint

_GB = 1e9
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit that the system reports in


def memory_used(device: torch.device) -> HistoryPoint:
    """Return the most that this process has taken so far, in GB: of its host, and of its GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
    used = {f"{SYSTEM}host_memory_gb": peak / _GB}
    if device.type == "cuda":
        used[f"{SYSTEM}gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / _GB
    return used
