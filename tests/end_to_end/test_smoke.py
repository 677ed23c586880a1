"""The whole line in the `smoke` profile, with DVC, as people run it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.checkout import Checkout

# One backbone behind the other, as in `paper-qwen`: `make demo` trains both.
PROFILE = (
    *("smoke", "plain.backbones=[sd21]", "train.backbones=[qwen]", "~intermediates.sd21"),
    *("report.names=[qwen-sdfm]", "register.candidates=[qwen-sdfm]"),
)
KILLED_IN = "degrade"
PATIENCE_S = 60  # for the stage that outlives the killed dvc


@pytest.fixture
def checkout(tmp_path: Path, ray_session: str) -> Checkout:
    return Checkout(
        tmp_path,
        # A dozen starts of Ray would take most of the time.
        {**os.environ, "RAY_ADDRESS": ray_session},
    )


@pytest.mark.cluster
@pytest.mark.ray
def test_the_line_survives_the_end_of_dvc_and_a_second_run_does_nothing(checkout: Checkout) -> None:
    checkout.hdrface("config", "use", *PROFILE)
    kill_dvc_alone(checkout)
    repro_when_nobody_is_at_it(checkout)

    summary = json.loads((checkout.folder / "metrics/summary.json").read_text())
    assert set(summary) == {"qwen-sdfm"}
    for metrics in summary.values():
        assert {"degraded", "intermediate", "restored", "gain"} <= set(metrics["psnr"])
        assert metrics["psnr"]["restored"]["n"] > 1
    assert (checkout.folder / "reports/index.html").stat().st_size > 10_000
    assert not list(checkout.folder.rglob("*.partial"))
    assert "qwen-sdfm" in checkout.hdrface("results")
    assert "sdfm" in checkout.hdrface("inspect", "models/qwen-sdfm")

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
