"""Ray's token in a home of its own, and in this user's after a start of Ray."""

import stat
from pathlib import Path

import pytest

from components.cluster import token


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray/auth_token"


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_new_token_is_its_owners_alone_and_stays(file: Path) -> None:
    token.keep_secret()
    made = file.read_text()
    assert len(bytes.fromhex(made)) == 32
    assert mode(file) == 0o600
    token.keep_secret()
    assert file.read_text() == made
    assert list(file.parent.iterdir()) == [file]


def test_a_token_that_others_can_read_is_closed(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("kept")
    file.chmod(0o644)
    token.keep_secret()
    assert (file.read_text(), mode(file)) == ("kept", 0o600)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_from_elsewhere_is_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "given")
    token.keep_secret()
    assert not file.exists()


@pytest.mark.ray
def test_the_token_of_a_running_ray_is_its_owners_alone(ray_session: str) -> None:
    assert ray_session
    assert mode(Path.home() / ".ray/auth_token") == 0o600
