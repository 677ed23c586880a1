from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.params import ParamsError
from pipelines import config

BASE = """
profile: '???'
faces: {source: data/samples, size: '???', note: null}
degrade: {size: "${faces.size}", rate: 5e-3}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Two small profiles over one base."""
    folder = tmp_path / "conf"
    (folder / "profile").mkdir(parents=True)
    (folder / "config.yaml").write_text("defaults: [base, profile: small, _self_]\n")
    (folder / "base.yaml").write_text(BASE)
    for name, size in (("small", 64), ("large-2", 512)):
        (folder / f"profile/{name}.yaml").write_text(
            f"# @package _global_\nprofile: {name}\nfaces: {{size: {size}}}\n"
        )
    return folder


def test_a_profile_changes_values_and_what_refers_to_them(conf: Path) -> None:
    composed = yaml.safe_load(config.compose("large-2", conf=conf))
    assert composed == {
        "profile": "large-2",
        "faces": {"source": "data/samples", "size": 512, "note": None},
        "degrade": {"size": 512, "rate": 0.005},
    }


def test_a_single_value_can_be_changed(conf: Path) -> None:
    composed = yaml.safe_load(config.compose("small", ["faces.size=32"], conf))
    assert (composed["faces"]["size"], composed["degrade"]["size"]) == (32, 32)


@pytest.mark.parametrize(
    "value",
    [
        *("/data/my faces", "größe/ä", "it's", 'a "b" c', "s3://bucket/x=1"),
        *("a\\", "\\'", "{x", "a,b", "(1)"),
    ],
)
def test_any_path_can_be_given_as_a_value(conf: Path, value: str) -> None:
    composed = yaml.safe_load(config.compose("small", [f"faces.source={value}"], conf))
    assert composed["faces"]["source"] == value


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(st.text("aé '\"\\={}[],$:#()%", min_size=1).filter(lambda text: "${" not in text))
def test_a_value_is_never_turned_into_another_text(conf: Path, value: str) -> None:
    composed = yaml.safe_load(config.compose("small", [f"faces.source={value}/x"], conf))
    assert composed["faces"]["source"] == f"{value}/x"
