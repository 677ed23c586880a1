"""The last table of a run, and the gate that CI stands on."""

import pytest

from pipelines.commands.results import failures, print_table


def summary(**gains: tuple[float | None, float | None]) -> dict[str, dict[str, dict[str, object]]]:
    """Make a summary of models with these intervals of the gain in PSNR."""
    return {
        model.replace("_", "-"): {
            "psnr": {
                "degraded": {"mean": 22.0, "low": 21.0, "high": 23.0, "n": 30},
                "restored": {"mean": 22.5, "low": 21.5, "high": 23.5, "n": 30},
                "gain": {"mean": 0.5, "low": low, "high": high, "n": 30},
            }
        }
        for model, (low, high) in gains.items()
    }


def test_a_gain_whose_interval_reaches_zero_fails_by_name() -> None:
    found = failures(summary(sd21_sdfm=(0.1, 0.9), qwen_sdfm=(0.0, 0.6)))
    assert len(found) == 1
    assert found[0].startswith("qwen-sdfm: the gain in PSNR is +0.500 dB")
    assert failures(summary(sd21_sdfm=(0.1, 0.9))) == []


def test_plain_restorers_are_not_judged_and_do_not_count_as_a_result() -> None:
    assert failures(summary(sd21_sdfm=(0.1, 0.9), qwen_text=(-1.0, 0.2))) == []
    assert failures(summary(qwen_text=(0.1, 0.2))) == ["no model was evaluated"]
    assert failures({}) == ["no model was evaluated"]


def test_a_missing_gain_or_interval_fails_too() -> None:
    assert "one face" in failures(summary(sd21_sdfm=(None, None)))[0]
    assert "no paired gain" in failures({"sd21-sdfm": {}})[0]


def test_the_table_shows_every_model_even_without_an_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(summary(sd21_sdfm=(0.1, 0.9), qwen_sdfm=(None, None)))
    out = capsys.readouterr().out
    assert "+0.100 … +0.900" in out
    assert "qwen-sdfm" in out
