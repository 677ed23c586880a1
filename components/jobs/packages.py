"""Compare the installed packages with `requirements.lock`, and install what differs.

A cluster's image has the packages of the lock it was made with. If a job's tree has another lock,
what differs is installed beside the image's packages: on the head into a folder before them in
PYTHONPATH, on the nodes by Ray, which keeps it for the next job.
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
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # from Ray's job server to the drivers of a job

log = logging.getLogger(__name__)


def differences(lock: Path) -> list[str]:
    """Find packages of a lock that are missing or installed in another version: `name==version`.

    A missing package counts only if the project beside the lock names it: the lock also holds what
    developers need. Without a lock there are none.
    """
    if not lock.is_file():
        return []
    needed = _needed(lock.with_name("pyproject.toml"))
    found = []
    for wanted in _locked(lock):
        name = canonicalize_name(wanted.name)
        installed = _installed(name)
        # A build of a version for one kind of machine, 2.14.1+cu130, is that version.
        agrees = installed is not None and wanted.specifier.contains(installed, prereleases=True)
        if not agrees and (installed is not None or name in needed):
            found.append(f"{name}{wanted.specifier}")
    return found


def _needed(project: Path) -> set[str]:
    if not project.is_file():
        return set()
    listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return {canonicalize_name(Requirement(line).name) for line in listed}


def _locked(lock: Path) -> list[Requirement]:
    found = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        try:
            wanted = Requirement(line.rstrip(" \\"))
        except InvalidRequirement:
            continue  # a hash, or an empty line
        if wanted.marker is None or wanted.marker.evaluate():
            found.append(wanted)
    return found


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def complete(packages: Sequence[str]) -> Mapping[str, str]:
    """Install packages beside the others; return the environment variables that make them found.

    Raises: ValueError with the installer's last line if they cannot be installed.
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
    # uv is in the lock, and so on every node; pip is not. --no-deps: the lock already names all
    # packages.
    uv = {"packages": list(packages), "uv_pip_install_options": ["--no-deps"]}
    config.setdefault("runtime_env", {})["uv"] = uv
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), _JOB_CONFIG: json.dumps(config)}
