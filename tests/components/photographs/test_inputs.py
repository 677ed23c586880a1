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


def test_results_go_above_their_inputs_but_not_among_them(tmp_path: Path) -> None:
    folder = tmp_path / "all" / "2020"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"")
    [job] = find_jobs([str(folder)], tmp_path / "all", None)
    assert job.target == tmp_path / "all" / "a.png"
    with pytest.raises(ValueError, match="is an input: name another folder with -o"):
        find_jobs([str(folder)], folder, None)


def test_one_input_that_means_nothing_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    out = tmp_path / "out"
    inputs = [str(tmp_path / name) for name in ("a.png", "gone\n.png", "y" * 300)]
    fine, gone, long = find_jobs(inputs, out, None)
    assert fine.problem is None
    assert gone.problem == f"{tmp_path}/gone\\n.png: no such file or folder, and no file matches it"
    assert long.problem is not None
    with pytest.raises(ValueError, match="no such file or folder"):
        find_jobs(inputs[1:2], out, None)


def test_two_results_of_one_name_fail_and_the_others_do_not(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.jpg.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    jobs = find_jobs([str(tmp_path)], tmp_path / "out", "png")
    problems = {job.source.name: job.problem for job in jobs}
    assert problems["b.png"] is None
    assert problems["a.png"] is None
    told = f"2 inputs would be written to {tmp_path}/out/a.jpg.png: restore them apart"
    assert problems["a.jpg"] == problems["a.jpg.png"] == told


@pytest.mark.parametrize(
    ("name", "content", "written", "format_"),
    [
        ("scan", b"\xff\xd8\xff\xe0", "scan.jpg", "jpeg"),  # no suffix
        ("IMG.2020", b"\x89PNG\r\n\x1a\n", "IMG.2020.png", "png"),
        ("a.JPE", b"\xff\xd8\xff\xe0", "a.JPE", "jpeg"),
        ("a.mpo", b"\xff\xd8\xff\xe0", "a.jpg", "jpeg"),
        ("a.jpg", b"\x89PNG\r\n\x1a\n", "a.png", "png"),  # a lossless file of a wrong name
        ("a.png", b"RIFF\0\0\0\0WEBP", "a.webp", "webp"),
        ("a.heic", b"\0\0\0\x18ftypheic", "a.png", "png"),
        ("a.tif", b"II*\0", "a.png", "png"),
        ("a.png", b"", "a.png", "png"),
    ],
)
def test_a_result_is_named_by_what_its_input_holds(
    tmp_path: Path, name: str, content: bytes, written: str, format_: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("no picture")
    [job] = find_jobs([str(tmp_path)], tmp_path / "out", None)
    assert (job.target.name, job.format, job.own.name) == (written, format_, name)
