"""The whole line in the `smoke` profile, with DVC, as people run it.

Its generators are of a third family, which is one file, its settings and one line: a line takes
minutes, so one run shows both. The demo and the line on a cluster run the two published families.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.checkout import Checkout

HERE = Path(__file__).parent
PROFILE = (
    *("smoke", "backbone=[sd21,toy]", "plain.backbones=[toy]", "train.backbones=[toy]"),
    *("weights.networks=[toy,toy-discriminator,dinov3]", "~intermediates.sd21"),
    "~intermediates.qwen",
    *("report.names=[toy-sdfm]", "register.candidates=[toy-sdfm]"),
)
KILLED_IN = "degrade"
PATIENCE_S = 60  # for the stage that outlives the killed dvc


@pytest.fixture
def checkout(tmp_path: Path, ray_session: str) -> Checkout:
    # A dozen starts of Ray would take most of the time.
    settings = {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(tmp_path)}
    checkout = Checkout(tmp_path, {**os.environ, **settings})
    add_a_family(checkout)
    return checkout


def add_a_family(checkout: Checkout) -> None:
    """Add the third family to a copy of the project: its file, its settings, and one line."""
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
def test_the_line_survives_the_end_of_dvc_and_a_second_run_does_nothing(checkout: Checkout) -> None:
    checkout.hdrface("config", "use", *PROFILE)
    kill_dvc_alone(checkout)
    repro_when_nobody_is_at_it(checkout)

    summary = json.loads((checkout.folder / "metrics/summary.json").read_text())
    assert set(summary) == {"toy-sdfm"}
    scores = summary["toy-sdfm"]["psnr"]
    assert {"degraded", "intermediate", "restored", "gain"} <= set(scores)
    assert scores["restored"]["n"] > 1
    assert (checkout.folder / "reports/index.html").stat().st_size > 10_000
    assert not list(checkout.folder.rglob("*.partial"))
    assert "toy-sdfm" in checkout.hdrface("results")
    assert "toy" in checkout.hdrface("inspect", "models/toy-sdfm")
    trained = checkout.folder / "models/toy-sdfm/unet/diffusion_pytorch_model.safetensors"
    assert trained.is_file()

    # Nothing to do: neither for a second run nor for another number of workers.
    other = ("compute.degrade.workers=1", "compute.train.cpus=2")
    checkout.hdrface("config", "use", *PROFILE, *other)
    output = checkout.succeed("dvc", "repro")
    assert "Running stage" not in output
    assert "up to date" in output


def kill_dvc_alone(checkout: Checkout) -> None:
    """Start the line and kill dvc, not its stage, while KILLED_IN runs."""
    seen = []
    with checkout.start("dvc", "repro") as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if line.startswith(f"> python -m pipelines.{KILLED_IN}"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, "".join(seen)


def repro_when_nobody_is_at_it(checkout: Checkout) -> None:
    """Run the line to its end; as long as the orphaned stage is at work, that is said."""
    until = time.monotonic() + PATIENCE_S
    code, output = checkout.run("dvc", "repro")
    while code and time.monotonic() < until:
        assert f"reproduce '{KILLED_IN}'" in output, output
        assert "process" in output, output  # which one is in the way
        time.sleep(1)
        code, output = checkout.run("dvc", "repro")
    assert code == 0, output
