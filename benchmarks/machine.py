"""The facts that a measured number means nothing without, and where results are written."""

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from components import git, lineage

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("numpy", "opencv-python-headless", "torch", "ray", "pyarrow", "diffusers", "mlflow")


def facts() -> dict[str, Any]:
    """Tell what this machine is, what runs on it, and when."""
    here = {package.name for package in metadata.distributions()}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],  # 1, 5 and 15 minutes
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES if name in here},
        "git": git.commit(lineage.ROOT),
    }


def save(name: str, before: Mapping[str, Any], results: Mapping[str, Any]) -> Path:
    """Write `results/NAME.json`; `before` are the `facts()` from before the measurement."""
    arguments = shlex.join(sys.argv[1:])
    command = f"python -m benchmarks.{name} {arguments}".strip()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    content = {"command": command, "machine": dict(before), "results": dict(results)}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file


def kept(name: str) -> dict[str, Any]:
    """Return the results in `results/NAME.json`, for a run that measures some of them; {}: none."""
    file = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(file.read_bytes())["results"] if file.is_file() else {}
    return results


def _cpu() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
