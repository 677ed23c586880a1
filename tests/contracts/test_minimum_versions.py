"""Packages that meet files or requests from outside are not older than the fix of a known fault."""

from pathlib import Path

import pytest
from packaging.version import Version

from tests.contracts.test_python_versions import locked, pyproject, pythons

__all__ = ["pyproject"]  # a fixture

# The version that fixes it, and the advisory. `make audit` finds the next one.
FIXED = {
    "torch": ("2.10.0", "CVE-2026-24747: torch.load with weights_only ran code"),
    "pillow": ("13.0.0", "CVE-2026-112403: a JPEG wrote beyond its buffer; CVE-2026-96639"),
    "opencv-python-headless": ("4.12.0", "CVE-2025-53644: a JPEG wrote to a wild pointer"),
    "starlette": ("1.3.0", "PYSEC-2026-248, CVE-2026-48710: a Host header changed the path"),
    "python-multipart": ("0.0.26", "CVE-2026-40347: a form with a long preamble took all time"),
    "ray": ("2.52.0", "CVE-2025-62593: the page of another site started jobs"),
    "setuptools": ("83.0.0", "CVE-2026-59890: a file meant to stay out was packed"),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_lock_has_the_fix(repository: Path, pyproject: dict[str, object], name: str) -> None:
    fixed, advisory = FIXED[name]
    for python in pythons(pyproject):
        for system in ("linux", "darwin"):
            version = locked(repository, python, system)[name]
            assert Version(version) >= Version(fixed), f"{name} {version}: {advisory}"
