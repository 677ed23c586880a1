"""What a model version holds: enough to restore faces on a machine without this repository.

restorer.json, unet/, …      the trained folder
needs/FINGERPRINT/           what it names by hash: networks, and a whole intermediate restorer
packaged_model.py            the model, for `mlflow.pyfunc.load_model`
code/components/             the library as it was then
MLmodel, requirements.txt, … what MLflow asks for
lineage.json                 where all of this comes from
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components import lineage
from components.files import write_json

LINEAGE = "lineage.json"
CODE = "code"  # MLflow's own name for it
_MODEL_FILE = Path(__file__).with_name("packaged_model.py")
_PACKAGES = (  # what restoring a face needs
    *("diffusers", "mlflow", "numpy", "opencv-python-headless", "peft", "pillow", "pydantic"),
    *("pyyaml", "safetensors", "torch", "transformers"),
)


def write(target: Path, story: Mapping[str, Any]) -> None:
    """Write the files that MLflow needs, and the lineage `story`, into a new folder."""
    from mlflow import pyfunc

    pyfunc.save_model(
        target,
        python_model=str(_MODEL_FILE),
        code_paths=[str(lineage.ROOT / "components")],
        # What follows '+' names a build that not every package index has.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _PACKAGES],
    )
    write_json(target / LINEAGE, story)
