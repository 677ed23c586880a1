"""Packages that meet files or requests from outside are not older than the fix of a known fault."""

from pathlib import Path

import pytest
from packaging.version import Version

from tests.contracts.test_python_versions import locked, pyproject, pythons

__all__ = ["pyproject"]  # a fixture

# The version that fixes it, and the advisory. `make audit` finds the next one.
FIXED = {
    "torch": ("2.13.0", "CVE-2025-3000: torch.jit.script; CVE-2026-24747: torch.load"),
    "pillow": ("13.0.0", "CVE-2026-112403, CVE-2026-112398: JPEG data wrote beyond its buffer"),
    "opencv-python-headless": ("4.12.0", "CVE-2025-53644: a JPEG wrote to a wild pointer"),
    "transformers": ("5.5.0", "CVE-2026-5241, CVE-2026-4372: a configuration ran remote code"),
    "diffusers": ("0.38.0", "CVE-2026-44513, CVE-2026-44827: a folder of weights ran its code"),
    "starlette": ("1.3.1", "CVE-2026-54283: a form beyond its limits; CVE-2026-48710"),
    "python-multipart": ("0.0.27", "CVE-2026-42561: headers of a part took all time"),
    "aiohttp": ("3.14.4", "CVE-2026-111750: smuggled requests; CVE-2026-69244, CVE-2026-54277"),
    "ray": ("2.56.0", "CVE-2026-57516: an archive ran code; CVE-2026-27482, CVE-2025-62593"),
    "mlflow": ("3.16.0", "CVE-2026-71211: its gateway asked other servers; CVE-2026-2614"),
    "cryptography": ("50.0.0", "CVE-2026-69247: its answers gave secrets of PKCS#7 away"),
    "setuptools": ("83.0.0", "CVE-2026-59890: a file meant to stay out was packed"),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_lock_has_the_fix(repository: Path, pyproject: dict[str, object], name: str) -> None:
    fixed, advisory = FIXED[name]
    for python in pythons(pyproject):
        for system in ("linux", "darwin"):
            version = locked(repository, python, system)[name]
            assert Version(version) >= Version(fixed), f"{name} {version}: {advisory}"
