"""What a model version holds, so that it restores faces on a machine that has nothing of this one.

restorer.json, unet/, …      the trained folder
needs/FINGERPRINT/              what it names by hash: networks, and the first restorer with its own
packaged_model.py          the model, for `mlflow.pyfunc.load_model`
code/components/             the library as it was
MLmodel, requirements.txt, … what MLflow asks for
lineage.json                 where all of this comes from
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components import lineage
from components.files import write_json
from components.weights.manifest import Description

LINEAGE = "lineage.json"
NEEDS = "needs"
CODE = "code"  # MLflow's own name for it
_MODEL_FILE = Path(__file__).with_name("packaged_model.py")
_PACKAGES = (  # what restoring a face takes
    *("diffusers", "mlflow", "numpy", "opencv-python-headless", "peft", "pillow", "pydantic"),
    *("pyyaml", "safetensors", "torch", "transformers"),
)

Closure = Sequence[tuple[Description, Mapping[str, Path]]]  # of `components.weights.store.closure`


def files_of(closure: Closure) -> Iterator[tuple[str, Path]]:
    """Give each file of a trained folder and of what it names, after its place in the version."""
    trained, _ = closure[-1]
    for description, files in closure:
        is_trained = description.fingerprint == trained.fingerprint
        place = "" if is_trained else f"{NEEDS}/{description.fingerprint}/"
        for relative, file in files.items():
            yield f"{place}{relative}", file
        yield f"{place}{description.file.name}", description.file


def write(target: Path, story: Mapping[str, Any]) -> None:
    """Write the rest of a version, what MLflow needs, into a new folder; `story` is the lineage."""
    from mlflow import pyfunc

    pyfunc.save_model(
        target,
        python_model=str(_MODEL_FILE),
        code_paths=[str(lineage.ROOT / "components")],
        # The part behind '+' names a build that not every package index has.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _PACKAGES],
    )
    write_json(target / LINEAGE, story)
