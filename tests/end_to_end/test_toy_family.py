"""A family of generators is one file: a third one goes through the whole line."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.checkout import Checkout

HERE = Path(__file__).parent
PROFILE = (
    *("smoke", "backbone=[sd21,qwen,toy]", "weights.networks=[toy,toy-discriminator,dinov3]"),
    *("plain.backbones=[toy]", "train.backbones=[toy]"),
    *("~intermediates.sd21", "~intermediates.qwen"),
    *("report.names=[toy-sdfm]", "register.candidates=[toy-sdfm]"),
)


def register(checkout: Checkout) -> None:
    """Add the family to a copy of the project: its file, its settings, and one line."""
    backbones = checkout.folder / "components/backbones"
    shutil.copy(HERE / "toy_family.py", backbones / "toy.py")
    shutil.copy(HERE / "toy_family.yaml", checkout.folder / "conf/backbone/toy.yaml")
    catalogue = backbones / "catalogue.py"
    text = catalogue.read_text().replace(
        "FAMILIES: dict[str, type[Backbone]] = {\n",
        "from components.backbones.toy import Toy\n"
        "FAMILIES: dict[str, type[Backbone]] = {\n"
        '    "toy": Toy,\n',
    )
    catalogue.write_text(text)


@pytest.mark.cluster
@pytest.mark.ray
def test_a_third_family_goes_from_weights_to_an_evaluated_model(
    tmp_path: Path, ray_session: str
) -> None:
    settings = {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(tmp_path)}
    checkout = Checkout(tmp_path, {**os.environ, **settings})
    register(checkout)
    checkout.hdrface("config", "use", *PROFILE)
    checkout.hdrface("config", "check")
    checkout.succeed("dvc", "repro", "evaluate@toy-sdfm")
    scores = json.loads((tmp_path / "metrics/models/toy-sdfm.json").read_text())
    assert scores["model"]["backbone"] == "toy"
    assert scores["metrics"]["psnr"]["restored"]["n"] > 1
    assert (tmp_path / "models/toy-sdfm/unet/diffusion_pytorch_model.safetensors").is_file()
    assert "toy" in checkout.hdrface("inspect", "models/toy-sdfm")
