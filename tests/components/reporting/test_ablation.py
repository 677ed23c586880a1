from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from components.metrics.bootstrap import Interval
from components.reporting import ablation

FACES = 12


def scored(model: str, psnr: npt.NDArray[np.float64], pairs: str = "p") -> dict[str, Any]:
    """A metrics file of one variant per face."""
    faces = [
        {"face_id": f"{number:02}", "variant": 0, "scores": {"psnr": {"restored": float(value)}}}
        for number, value in enumerate(psnr)
    ]
    interval = {"mean": float(psnr.mean()), "low": 0.0, "high": 99.0, "n": len(psnr), "of": 12}
    psnr_entry = {"better": "higher", "unit": "dB", "protocol": "rgb", "restored": interval}
    return {
        "model": {"name": model},
        "protocol": {"pairs": pairs},
        "metrics": {"psnr": psnr_entry},
        "unavailable": {},
        "faces": faces,
    }


def test_differences_are_paired_by_face_and_by_backbone() -> None:
    draw = np.random.default_rng(0)
    sd21, qwen = draw.normal(23, 3, FACES), draw.normal(20, 3, FACES)
    worse = draw.normal(0.5, 0.1, FACES)
    scores = {
        "sdfm": [scored("sd21-sdfm", sd21), scored("qwen-sdfm", qwen)],
        "text": [scored("sd21-text", sd21 - worse), scored("qwen-text", qwen)],
    }
    rows = ablation.rows(scores, "sdfm", samples=500, seed=1)
    assert [row.model for row in rows] == ["sd21-sdfm", "qwen-sdfm", "sd21-text", "qwen-text"]
    assert rows[0].difference == rows[1].difference == "the choice"
    text, same = rows[2].difference, rows[3].difference
    assert isinstance(text, Interval)
    assert isinstance(same, Interval)
    assert text.mean == pytest.approx(-worse.mean())
    # Faces differ by 3 dB, yet the twin is found to be worse: the differences hardly vary.
    assert text.high is not None
    assert text.high < -0.3
    assert (same.low, same.mean, same.high) == (0, 0, 0)
    assert "| text | sd21-text | psnr |" in ablation.markdown(rows)


def test_what_cannot_be_compared_says_why() -> None:
    psnr = np.linspace(20, 25, FACES)
    scores = {"sdfm": [scored("sd21-sdfm", psnr)], "text": [scored("sd21-text", psnr, pairs="q")]}
    [_, text] = ablation.rows(scores, "sdfm", samples=10, seed=1)
    assert "not comparable" in str(text.difference)
    [alone] = ablation.rows({"text": scores["text"]}, "sdfm", samples=10, seed=1)
    assert alone.difference == "sdfm has no scores"


def test_scores_are_kept_with_their_protocols_and_without_faces() -> None:
    psnr = np.full(FACES, 23.0)
    kept = ablation.without_faces({"sdfm": [scored("sd21-sdfm", psnr), scored("qwen-sdfm", psnr)]})
    assert list(kept["sdfm"]) == ["sd21-sdfm", "qwen-sdfm"]
    content = kept["sdfm"]["qwen-sdfm"]
    assert content["protocol"] == {"pairs": "p"}
    assert content["metrics"]["psnr"]["restored"]["mean"] == 23
    assert "faces" not in content
