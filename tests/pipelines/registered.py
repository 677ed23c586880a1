"""A project whose trained models can be registered: small networks, runs in a real MLflow."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow import MlflowClient

from components.metrics.promotion import Rule
from components.reporting import comparison
from components.reporting.comparison import FaceScores
from components.tracking.registry import Registry
from components.tracking.runs import TrainingRun
from components.weights.manifest import RESTORER, Description
from pipelines import register
from pipelines.register import RegisterParams
from tests.small_networks import trained
from tests.small_tables import write_table

RULE = Rule(better=["psnr"], not_worse={"ssim": 0.01}, bootstrap_samples=200, seed=1)
NAMES = ("sd21-sdfm", "qwen-text")
GIT = {"commit": "c0ffee" * 6 + "c0de", "dirty": False}


def make_models(root: Path, networks: Path) -> Path:
    """Make two trained folders, the one naming the other, that say how they were trained."""
    trained(root, networks, "sd21", "sdfm")  # and, to stand on, qwen-text
    for name in NAMES:
        file = root / name / RESTORER
        content = json.loads(file.read_bytes())
        content["lineage"] = {"git": GIT, "training": f"training-of-{name}"}
        file.write_text(json.dumps(content))
        (root / name / "history.json").write_text("[]")
    return root


@dataclass(frozen=True)
class Project:
    """Models, scores and tables; MLflow is where `MLFLOW_TRACKING_URI` says."""

    root: Path
    models: Path

    def params(self, *candidates: str, rule: Rule = RULE) -> RegisterParams:
        return RegisterParams(
            name="hdrface",
            candidates=list(candidates),
            models=self.models,
            scores=self.root / "metrics",
            tables=[self.root / "faces"],
            out=self.root / "registered.json",
            champion=self.root / "champion",
            promotion=rule,
        )

    def fingerprint(self, name: str) -> str:
        return Description.read(self.models / name).fingerprint

    def track(self, name: str) -> str:
        """Store a model in the finished run of its training, as the stage `train` does."""
        run = TrainingRun.begin(f"training-of-{name}", name=f"train@{name}", params={})
        run.log_model(self.models / name)
        run.finish()
        return run.id

    def score(self, name: str, gain: float, *, pairs: str = "9f", num_faces: int = 9) -> None:
        """Write a metrics file: every face gains about `gain` dB over its degraded twin."""
        draw = np.random.default_rng(0)  # the same faces for every model
        faces = []
        for i in range(num_faces):
            before = draw.normal(22, 2)
            psnr = {"degraded": before, "restored": before + gain + draw.normal(0, 0.05)}
            ssim = {"degraded": 0.5, "restored": 0.7}
            faces.append(FaceScores(f"face-{i}", 0, {"psnr": psnr, "ssim": ssim}))
        facts = comparison.model_facts(name, {"fingerprint": self.fingerprint(name)})
        result = comparison.result(facts, {"pairs": pairs}, faces, {}, samples=9, seed=1)
        (self.root / "metrics").mkdir(exist_ok=True)
        (self.root / "metrics" / f"{name}.json").write_text(json.dumps(result))

    def ready(self, name: str, gain: float) -> str:
        """Track and score a model; give its run."""
        self.score(name, gain)
        return self.track(name)

    def register(self, *candidates: str, rule: Rule = RULE) -> dict[str, Any]:
        """Run the stage; give what it wrote."""
        params = self.params(*candidates, rule=rule)
        register.run(params)
        outcome: dict[str, Any] = json.loads(params.out.read_bytes())
        return outcome

    @property
    def registry(self) -> Registry:
        return Registry("hdrface")

    @property
    def client(self) -> MlflowClient:
        return self.registry._client

    def versions(self) -> list[str]:
        found = self.client.search_model_versions("name = 'hdrface'")
        return sorted(str(version.version) for version in found)

    def tags(self, number: str) -> dict[str, str]:
        return dict(self.client.get_model_version("hdrface", number).tags)

    @classmethod
    def make(cls, root: Path, models: Path) -> "Project":
        write_table(root / "faces", [pa.table({"face_id": ["a", "b"]})], stage="faces")
        return cls(root, models)
