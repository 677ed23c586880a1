import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.serving import keys
from components.serving.keys import Keys


def test_a_key_is_valid_until_it_is_removed_and_is_not_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    reading = Keys(file)
    assert reading.owner("hdrface-guess") is None
    anna, ben = keys.add(file, "anna"), keys.add(file, "ben")
    assert anna not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (reading.owner(anna), reading.owner(ben)) == ("anna", "ben")
    keys.remove(file, "anna")
    assert (reading.owner(anna), reading.owner(ben)) == (None, "ben")


@given(st.text())
def test_no_other_text_is_a_valid_key(tmp_path_factory: pytest.TempPathFactory, guess: str) -> None:
    file = tmp_path_factory.getbasetemp() / "guessed.json"
    if not file.exists():
        keys.add(file, "anna")
    assert Keys(file).owner(guess) is None
    hashed = json.loads(file.read_text())["anna"]["sha256"]
    assert Keys(file).owner(hashed) is None


def test_errors_name_a_taken_name_a_missing_name_and_a_broken_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys.add(file, "anna")
    with pytest.raises(ValueError, match="has a key for 'anna' already"):
        keys.add(file, "anna")
    with pytest.raises(ValueError, match="no key for 'ben'"):
        keys.remove(file, "ben")
    file.write_text('{"anna": "plain"}')
    with pytest.raises(ValueError, match=r"keys.json is not a file of API keys"):
        keys.read(file)


def test_a_key_that_expires_is_valid_until_then(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    anna, ben = keys.add(file, "anna", days=30), keys.add(file, "ben")
    now = datetime.now(UTC)
    reading = Keys(file, lambda: now)
    assert (reading.owner(anna), reading.owner(ben)) == ("anna", "ben")
    now += timedelta(days=29, hours=23)
    assert reading.owner(anna) == "anna"
    now += timedelta(hours=2)
    assert (reading.owner(anna), reading.owner(ben)) == (None, "ben")
    entries = json.loads(file.read_text())
    entries["anna"]["expires"] = "2026-01-31"  # of which place?
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"keys.json is not a file of API keys"):
        keys.read(file)
