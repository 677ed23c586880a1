"""The packages of this process against `requirements.lock`, and what is missing beside them.

A cluster's image has the lock of the day it was made. Where a job's tree has another, what differs
is installed beside the image's packages: on the head into a folder before them in PYTHONPATH, on
the nodes by Ray, which keeps it for the next job.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

LOCK = "requirements.lock"
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray's job server tells the drivers of a job

log = logging.getLogger(__name__)


def differences(lock: Path) -> list[str]:
    """Return what is installed in another version than a lock's, or missing, as `name==version`.

    Of the missing ones only what the project beside the lock names itself: the lock holds what
    developers need as well. Nothing without a lock.
    """
    if not lock.is_file():
        return []
    needed = _needed(lock.with_name("pyproject.toml"))
    found = []
    for name, version in _locked(lock):
        installed = _installed(name)
        if installed != version and (installed is not None or name in needed):
            found.append(f"{name}=={version}")
    return found


def _needed(project: Path) -> set[str]:
    if not project.is_file():
        return set()
    listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return {canonicalize_name(Requirement(line).name) for line in listed}


def _locked(lock: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        try:
            wanted = Requirement(line.rstrip(" \\"))
        except InvalidRequirement:
            continue  # a hash, or an empty line
        if wanted.marker is None or wanted.marker.evaluate():
            found.append((canonicalize_name(wanted.name), next(iter(wanted.specifier)).version))
    return found


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def complete(packages: Sequence[str]) -> Mapping[str, str]:
    """Install packages beside those there are; give the environment in which all are found.

    Raises: ValueError if they cannot be installed, with what the installer said.
    """
    log.info("the cluster lacks %d packages of %s: %s", len(packages), LOCK, ", ".join(packages))
    name = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"hdrface-packages-{os.getuid()}" / name
    install = ["-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [sys.executable, *install, *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ValueError(f"{', '.join(packages)} of {LOCK} cannot be installed: {said}")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    config = json.loads(os.environ.get(_JOB_CONFIG, "{}"))
    config.setdefault("runtime_env", {})["pip"] = {"packages": list(packages)}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), _JOB_CONFIG: json.dumps(config)}
