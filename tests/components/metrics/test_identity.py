"""The identity angle against a transcription, from the picture to the degrees."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from skimage.transform import SimilarityTransform

from components import images
from components.metrics.catalogue import open_metrics
from tests.transcriptions import mean_reduced, mobile_face_net, warped

# Two eyes, nose, two corners of the mouth: facexlib's template of FFHQ, of 512 pixels, and
# InsightFace's of 112.
FFHQ = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.19360),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
ARCFACE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


def cut(face: np.ndarray) -> np.ndarray:
    """Return the 112 x 112 picture that an ArcFace network sees of an aligned face."""
    wide = len(face) / 512
    scale = SimilarityTransform.from_estimate(FFHQ * wide, ARCFACE).scale
    small = mean_reduced(face, round(len(face) * scale))  # so that the warp skips no pixel
    fit = SimilarityTransform.from_estimate(FFHQ * len(small) / 512, ARCFACE)
    return warped(small, fit.params[:2], 112)


@pytest.mark.shared
def test_the_identity_angle_equals_its_transcription(shared_dir: Path) -> None:
    folder = shared_dir / "weights"
    weights = torch.load(folder / "mobilefacenet.pt", map_location="cpu", weights_only=True)

    def embedded(face: np.ndarray) -> np.ndarray:
        signed = (cut(face).astype(np.float32) - 127.5) / 127.5  # RGB
        with torch.no_grad():
            found = mobile_face_net(weights, torch.from_numpy(signed.transpose(2, 0, 1))[None])
        return found[0].double().numpy()

    def angle(one: np.ndarray, other: np.ndarray) -> float:
        a, b = embedded(one), embedded(other)
        return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))

    files = [shared_dir / f"faces/hq/celebahq_{name}.jpg" for name in ("012712", "015248")]
    hq, other = (np.asarray(PIL.Image.open(file).convert("RGB")) for file in files)
    degraded = np.asarray(PIL.Image.fromarray(hq).resize((48, 48)).resize((512, 512)))
    expected = [angle(degraded, hq), angle(other, hq)]

    # The same network as ONNX, which is what the metric takes.
    network = folder / "mobilefacenet.onnx"
    metrics, unavailable = open_metrics(["identity_angle"], identity_network=network)
    assert not unavailable
    given, true = images.to_tensor([degraded, other, hq]), images.to_tensor([hq, hq, hq])
    assert metrics["identity_angle"](given, true) == pytest.approx([*expected, 0], abs=0.05)
    assert 5 < expected[0] < 45 < expected[1]
