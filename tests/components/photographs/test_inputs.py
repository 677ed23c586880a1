from pathlib import Path

import pytest

from components.photographs.inputs import find_jobs


def test_results_of_an_earlier_run_are_not_inputs(tmp_path: Path) -> None:
    out = tmp_path / "restored"
    for file in (tmp_path / "a.png", out / "a.png", tmp_path / ".hidden.png"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    [job] = find_jobs([str(tmp_path)], out, None)
    assert (job.source, job.target) == (tmp_path / "a.png", out / "a.png")


def test_two_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    inputs = [str(tmp_path / "x/a.png"), str(tmp_path / "y/a.png")]
    with pytest.raises(ValueError, match=r"2 inputs would be written to .*out/a.png"):
        find_jobs(inputs, tmp_path / "out", None)
    assert len(find_jobs([inputs[0], inputs[0]], tmp_path / "out", None)) == 1
