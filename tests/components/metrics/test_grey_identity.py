"""Deg. of the VQFR protocol against the network of spandrel and the formula written out."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from components import images
from components.metrics.catalogue import open_metrics


def test_it_gives_the_published_networks_angle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spandrel.architectures.GFPGAN.__arch.arcface_arch import ResNetArcFace

    torch.manual_seed(0)
    network = ResNetArcFace(block="IRBlock", layers=(2, 2, 2, 2), use_se=False).eval()
    for part in network.modules():  # as a trained network's: not the same for every channel
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/hdrface").mkdir(parents=True)
    weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save(weights, tmp_path / "hub/hdrface/resnet18_110.pth")
    metrics, unavailable = open_metrics(["deg_vqfr"], identity_network=None)
    assert not unavailable

    hq = astronaut()[0:200, 120:320]
    restored = images.resize(images.resize(hq, 24), 200)

    def embedded(face: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2BGR), cv2.COLOR_BGR2GRAY)
        small = cv2.resize(grey, (128, 128)).astype(np.float32)
        with torch.no_grad():
            found = network(torch.from_numpy((small - 127.5) / 127.5)[None, None])
        return found[0].double().numpy()

    one, other = embedded(restored), embedded(hq)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    score = metrics["deg_vqfr"](images.to_tensor([restored, hq]), images.to_tensor([hq, hq]))
    assert score[0] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-2)
    assert np.isnan(score[1])  # equal pictures are below 1 degree, and left out
