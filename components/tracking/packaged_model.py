"""A registered restorer for `mlflow.pyfunc.load_model`: this file is the model.

MLflow runs it where it lies in a model version, beside the trained folder's files; `needs/` holds
what those name by hash. Weights are safetensors; nothing is unpickled.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.pyfunc.model import PythonModel

if TYPE_CHECKING:
    from components.restorers.protocol import RestoresFaces

_FOLDER = Path(__file__).parent


class PackagedModel(PythonModel):
    """Restore pictures of aligned faces."""

    restorer: "RestoresFaces"

    def load_context(self, context: Any) -> None:  # noqa: ARG002 - the files lie beside this one
        """Load the trained folder, on a GPU if there is one."""
        import torch

        from components.restorers.folder import load_restorer

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        hints = sorted((_FOLDER / "needs").iterdir())
        self.restorer = load_restorer(_FOLDER, hints, device=self.device)

    # MLflow reads the signature of the model from these two types.
    def predict(self, model_input: list[bytes]) -> list[bytes]:  # type: ignore[override]
        """Restore each encoded square picture of an aligned face, to a PNG of the model's size.

        The same bytes always give the same bytes back, alone or with others: the noise is keyed by
        the picture's hash, and each face is a batch of its own.

        Raises: ImageError if a picture cannot be decoded, ValueError if it is not square.
        """
        return [self._restore(picture) for picture in model_input]

    def _restore(self, picture: bytes) -> bytes:
        from components import images

        lq = images.resize(images.decode(picture), self.restorer.size)
        restored = self.restorer.restore(
            images.to_tensor([lq], self.device), [hashlib.sha256(picture).hexdigest()], [0]
        )
        return images.encode_png(images.from_tensor(restored.restored_B3HW)[0])


mlflow.models.set_model(PackagedModel())
