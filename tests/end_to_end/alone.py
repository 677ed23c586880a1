"""The line in the `smoke` profile on one machine, with DVC, which is killed once.

One run serves several tests, as a line takes minutes. It trains Qwen-Image behind SD 2.1, as
`paper-qwen` does, to be compared with a line on a cluster; and models of a third family, which is
one file, its settings and one line.
"""

import os
import shutil
import signal
import time
from pathlib import Path

from tests.end_to_end.checkout import Checkout

HERE = Path(__file__).parent
# Enough shards that a node can be lost between the first and the last, and two workers a training.
SIZES = (
    *("samples.count=30", "faces.files_per_shard=3", "degrade.variants=2"),
    *("train.sd21.workers=2", "train.qwen.workers=2"),
)
PROFILE = (
    *("smoke", *SIZES, "backbone=[sd21,qwen,toy]"),
    "weights.networks=[sd21,sd21-discriminator,qwen,qwen-discriminator,toy,toy-discriminator,dinov3]",
    *("plain.backbones=[sd21,toy]", "train.backbones=[qwen,toy]", "~intermediates.sd21"),
    *("report.names=[toy-sdfm]", "register.candidates=[toy-sdfm]"),
)
KILLED_IN = "degrade"
PATIENCE_S = 60  # for the stage that outlives the killed dvc


def run_alone(folder: Path, ray_address: str) -> Checkout:
    """Run the line in a new copy of the project, and kill dvc once; gives the copy."""
    # A dozen starts of Ray would take most of the time.
    settings = {"RAY_ADDRESS": ray_address, "PYTHONPATH": str(folder)}
    checkout = Checkout(folder, {**os.environ, **settings})
    add_a_family(checkout)
    checkout.hdrface("config", "use", *PROFILE)
    kill_dvc_alone(checkout)
    repro_when_nobody_is_at_it(checkout)
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
