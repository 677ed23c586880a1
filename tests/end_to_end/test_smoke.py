"""The whole line in the `smoke` profile, with DVC, as people run it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LINE = ["components", "pipelines", "conf", "dvc.yaml", ".dvcignore", ".dvc/config"]
KILLED_IN = "degrade"
PATIENCE_S = 60  # for the stage that outlives the killed dvc


class Checkout:
    """A copy of what a run needs, in a folder of its own, without git."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        for name in LINE:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / name, target, ignore=ignored)
            else:
                shutil.copy(REPOSITORY / name, target)
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        process = self.start(*command)
        output, _ = process.communicate()
        return process.returncode, output

    def hdrface(self, *words: str) -> str:
        code, output = self.run(sys.executable, "-m", "pipelines.cli", *words)
        assert code == 0, output
        return output


@pytest.fixture
def checkout(tmp_path: Path, ray_session: str) -> Checkout:
    return Checkout(
        tmp_path,
        {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_ADDRESS": ray_session,  # seventeen starts of Ray would take most of the time
            "OMP_NUM_THREADS": "2",
        },
    )


@pytest.mark.slow
@pytest.mark.ray
def test_the_line_survives_the_end_of_dvc_and_a_second_run_does_nothing(checkout: Checkout) -> None:
    checkout.hdrface("config", "use", "smoke")
    kill_dvc_alone(checkout)
    repro_when_nobody_is_at_it(checkout)

    summary = json.loads((checkout.folder / "metrics/summary.json").read_text())
    assert set(summary) == {"sd21-sdfm", "qwen-sdfm"}
    for metrics in summary.values():
        assert {"degraded", "intermediate", "restored", "gain"} <= set(metrics["psnr"])
        assert metrics["psnr"]["restored"]["n"] > 1
    assert (checkout.folder / "reports/index.html").stat().st_size > 10_000
    assert not list(checkout.folder.rglob("*.partial"))
    assert "qwen-sdfm" in checkout.hdrface("results")
    assert "sdfm" in checkout.hdrface("inspect", "models/sd21-sdfm")

    # Nothing to do: neither for a second run nor for another number of workers.
    checkout.hdrface("config", "use", "smoke", "compute.degrade.workers=1", "compute.train.cpus=2")
    code, output = checkout.run("dvc", "repro")
    assert code == 0, output
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
