"""The page's controls, as Gradio sends them to a browser."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from components.serving import page
from components.serving.requests import RequestOptions

CONTROLS = ("dropdown", "slider", "checkbox", "number", "textbox")


@pytest.fixture(autouse=True)
def _own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "unset")  # the page sets it: restore it after the test


def controls(models: list[str], *, detector: bool, angles: bool) -> dict[str, dict[str, Any]]:
    """Read the page's controls by their labels."""
    server = page.Server(
        FastAPI(), models, finds_faces=detector, measures_angles=angles, upload_bytes=1000
    )
    with TestClient(page.build(server)) as client:
        components = client.get("/config").json()["components"]
    shown = [one["props"] for one in components if one["type"] in CONTROLS]
    return {one["label"]: one for one in shown if one.get("elem_id") != "album-job"}


def label(option: str) -> str:
    description = RequestOptions.model_fields[option].description
    assert description is not None
    return description.removesuffix(".").partition(". ")[0]


def test_every_option_but_the_deadline_has_a_control_with_its_description() -> None:
    shown = controls(["a", "b"], detector=True, angles=True)
    assert set(shown) == {
        label(name) for name in RequestOptions.model_fields if name != "timeout_s"
    }
    assert shown[label("quality")].get("value") is None  # a file keeps its own
    formats = [value for _, value in shown[label("format")]["choices"]]
    assert formats == ["default", "jpeg", "png", "webp"]
    assert [value for _, value in shown[label("model")]["choices"]] == ["default", "a", "b"]
    assert shown[label("aligned")]["value"] is False


def test_options_that_the_server_cannot_follow_are_hidden() -> None:
    shown = controls(["a"], detector=False, angles=False)
    assert not {label(name) for name in ("model", "max_angle", "leave_flagged")} & set(shown)
    assert shown[label("aligned")]["value"] is True  # without a detector nothing else works
