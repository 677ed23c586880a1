"""The command `hdrface restore`, run as people run it, with an untrained model of 32 pixels."""

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from components import images
from components.photographs import photograph
from components.portraits import drawing
from components.tracking import registry
from components.weights.manifest import Description
from pipelines.cli import app
from tests.components.photographs.videos import make_video, needs_ffmpeg
from tests.onnx_networks import onnx_network
from tests.small_networks import make_tiny_decoder, trained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Path:
    return trained(tmp_path_factory.mktemp("models"), networks, "sd21", "text")


@pytest.fixture(scope="module")
def face() -> images.Image:
    return drawing.draw(1, 3).image


def restore(*words: object) -> Result:
    return CliRunner().invoke(app, ["restore", *map(str, words)])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def pixels(file: Path) -> images.Image:
    return np.asarray(PIL.Image.open(file))


def photographs(folder: Path, face: images.Image) -> Path:
    """Write three aligned faces, a broken file, one that is not square, and what is no picture."""
    (folder / "deep").mkdir(parents=True)
    picture = PIL.Image.fromarray(face)
    picture.save(folder / "a.jpg")
    picture.save(folder / "a.png")
    picture.save(folder / "deep/b.bmp")
    picture.resize((60, 40)).save(folder / "deep/wide.webp")
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:1000])
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_is_restored_and_a_bad_file_does_not_stop_the_others(
    tmp_path: Path, model: Path, face: images.Image
) -> None:
    source, out = photographs(tmp_path / "in", face), tmp_path / "out"
    done = restore(source, "-o", out, "--model", model, "--aligned")
    assert done.exit_code == 1
    written = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert written == ["a.jpg", "a.png", "deep/b.png", "results.jsonl"]
    results = {Path(line["input"]).name: line for line in lines(out)}
    assert {name: line["status"] for name, line in results.items()} == {
        "a.jpg": "restored",
        "a.png": "restored",
        "b.bmp": "restored",
        "broken.jpg": "failed",
        "wide.webp": "failed",
    }
    assert "truncated" in results["broken.jpg"]["reason"]
    assert "60 x 40 is not square" in results["wide.webp"]["reason"]
    assert results["a.png"]["record"]["model_size"] == 32
    assert results["a.png"]["record"]["precision"] == "float32"
    restored = np.asarray(PIL.Image.open(out / "a.png"))
    assert restored.shape == face.shape
    assert (restored != face).mean() > 0.5
    for word in ("5 files: ", "3 restored", "2 failed", "32 x 32", "not square"):
        assert word in done.stdout


def test_patterns_formats_and_scale(tmp_path: Path, model: Path, face: images.Image) -> None:
    source, out = photographs(tmp_path / "in", face), tmp_path / "out"
    words = ("--aligned", "--format", "webp", "--scale", 1.5, "--quality", 60)
    done = restore(f"{source}/a.*", "-o", out, "--model", model, *words)
    assert done.exit_code == 0
    # The two differ in their suffix alone, so it is kept.
    assert {file.name for file in out.glob("*.webp")} == {"a.jpg.webp", "a.png.webp"}
    with PIL.Image.open(out / "a.png.webp") as written:
        assert (written.format, written.size) == ("WEBP", (480, 480))


def test_existing_results_are_skipped_on_request_and_keep_their_records(
    tmp_path: Path, model: Path, face: images.Image
) -> None:
    source, out = photographs(tmp_path / "in", face), tmp_path / "out"
    words = ("-o", out, "--model", model, "--aligned", "--skip-existing")
    restore(source / "a.png", *words)
    before = (out / "a.png").stat().st_mtime_ns
    [first] = lines(out)
    assert restore(source / "a.png", source / "a.jpg", *words).exit_code == 0
    skipped, new = lines(out)
    assert (skipped["status"], new["status"]) == ("skipped", "restored")
    assert skipped["record"] == first["record"]
    assert (out / "a.png").stat().st_mtime_ns == before


def test_odd_names_and_files_stop_nothing_and_get_a_line_each(
    tmp_path: Path, model: Path, face: images.Image
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    picture = io.BytesIO()
    PIL.Image.fromarray(face).save(picture, "png")
    longest, broken_name = f"{'x' * 251}.png", os.fsdecode(b"J\xf6rg.png")
    names = ("a.png", longest, "new\nline \x1b[31m.png", broken_name, "no suffix", "sub/b.png")
    for name in names:
        (source / name).write_bytes(picture.getvalue())
    (source / f"{'y' * 251}.gif").write_bytes(picture.getvalue()[:50])
    os.mkfifo(source / "pipe.jpg")
    (source / "gone.jpg").symlink_to("nowhere")
    (source / "layers.psd").write_bytes(b"8BPS")
    (source / "notes.txt").write_text("no picture")
    out.mkdir()
    (out / "sub").write_text("a file where a folder must be")
    done = restore(source, "-o", out, "--model", model, "--aligned")
    assert done.exit_code == 1
    results = {Path(line["input"]).relative_to(source).as_posix(): line for line in lines(out)}
    assert results.keys() == {*names, f"{'y' * 251}.gif", "pipe.jpg", "gone.jpg", "layers.psd"}
    restored = [name for name, line in results.items() if line["status"] == "restored"]
    assert sorted(restored) == sorted({*names} - {"sub/b.png"})
    assert (out / "no suffix.png").is_file()
    assert "pipe" in results["pipe.jpg"]["reason"]
    assert "No such file" in results["gone.jpg"]["reason"]
    assert f"{out / 'sub'} is no folder: remove it" in results["sub/b.png"]["reason"]
    assert "Photoshop document: save it as" in results["layers.psd"]["reason"]
    assert not [file for file in out.iterdir() if file.name.startswith(".")]
    told = done.stdout + done.stderr
    assert "\x1b[31m" not in told  # which would colour the terminal
    assert "\\x1b[31m" in told


def test_stopped_runs_keep_their_lines_and_go_on(
    tmp_path: Path, model: Path, face: images.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        PIL.Image.fromarray(face).save(source / name)
    read = photograph.read
    words = (source, "-o", out, "--model", model, "--aligned", "--batch-size", 1, "--page")
    calls = iter(range(9))

    def interrupted(data: bytes) -> photograph.Photograph:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return read(data)

    monkeypatch.setattr(photograph, "read", interrupted)
    stopped = restore(*words)
    assert stopped.exit_code == 130
    assert "--skip-existing goes on" in stopped.stderr
    assert [line["status"] for line in lines(out)] == ["restored", "restored"]
    assert restore(*words, "--skip-existing").exit_code == 0
    assert [line["status"] for line in lines(out)] == ["skipped", "skipped", "restored"]
    assert all(line["record"]["num_restored"] == 1 for line in lines(out))
    page = (out / "page.html").read_text()
    assert page.count("<img") == 3 * 4  # each photograph and its face, before and after
    for name in re.findall(r'src="([^"]+)"', page):
        assert pixels(out / name).size


@pytest.mark.cluster
def test_several_workers_write_the_same_files(
    tmp_path: Path, model: Path, face: images.Image
) -> None:
    """Each imports torch and loads the model, which takes most of a minute on a busy machine."""
    source = photographs(tmp_path / "in", face)
    words = (source, "--model", model, "--aligned")
    assert restore(*words, "-o", tmp_path / "one").exit_code == 1
    assert restore(*words, "-o", tmp_path / "two", "--workers", 2).exit_code == 1
    for name in ("a.jpg", "a.png", "deep/b.png"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    inputs = [[line["input"] for line in lines(tmp_path / out)] for out in ("one", "two")]
    assert inputs[0] == inputs[1]


def test_a_preview_says_everywhere_that_it_is_one_and_never_stands_for_the_result(
    tmp_path: Path, model: Path, face: images.Image
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a.png", "b.jpg"):
        PIL.Image.fromarray(face).save(source / name)
    words = (source, "-o", out, "--model", model, "--aligned", "--skip-existing")
    preview = ("--preview", make_tiny_decoder(tmp_path / "tiny"), "--page")
    done = restore(*words, *preview)
    assert done.exit_code == 0
    for line in lines(out):
        assert (line["status"], line["record"]["preview"]) == ("restored", True)
        assert line["reason"].startswith("only a preview")
        assert line["record"]["note"] == line["reason"]
        file = Path(line["output"]).read_bytes()
        assert re.search(rb"restored by HDRFace, model sd21-text \(\w{12}\), only a preview", file)
    assert "only a preview" in " ".join(done.stdout.split())
    assert (out / "page.html").read_text().count("only a preview") == 2
    rough = pixels(out / "a.png")
    # Another preview need not be made; the result must be.
    restore(*words, *preview)
    assert [line["status"] for line in lines(out)] == ["skipped", "skipped"]
    restore(*words)
    assert [line["status"] for line in lines(out)] == ["restored", "restored"]
    assert [line["record"]["preview"] for line in lines(out)] == [False, False]
    assert b"preview" not in (out / "a.png").read_bytes()
    assert not np.array_equal(pixels(out / "a.png"), rough)


def test_another_projects_checkpoint_restores_a_folder(tmp_path: Path, face: images.Image) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    PIL.Image.fromarray(images.resize(face, 32)).save(source / "a.png")
    words = ("--aligned", "--model", f"onnx:{onnx_network(tmp_path / 'half.onnx')}")
    assert restore(source, "-o", out, *words).exit_code == 0
    before, after = (np.asarray(PIL.Image.open(folder / "a.png")) for folder in (source, out))
    np.testing.assert_allclose(after, 127.5 + (before - 127.5) / 2, atol=1)
    [line] = lines(out)
    assert (line["status"], line["record"]["model_size"]) == ("restored", 32)
    refused = CliRunner().invoke(
        app, ["restore", str(source), "-o", str(out), *words, "--fidelity", "0.5"]
    )
    assert "half accepts only 1" in str(refused.exception)


def test_first_restorations_come_from_a_folder_or_from_another_restorer(
    tmp_path: Path, networks: Path, face: images.Image
) -> None:
    sdfm = trained(tmp_path / "models", networks, "sd21", "sdfm")
    source, results = tmp_path / "in", tmp_path / "results"
    (source / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "c.png"):
        PIL.Image.fromarray(images.resize(face, 32)).save(source / name)
    half = f"onnx:{onnx_network(tmp_path / 'half.onnx')}"
    words = (source, "--aligned", "--color-fix", "none")
    assert restore(*words, "-o", results, "--model", half).exit_code == 0
    (results / "c.png").unlink()

    live = restore(*words, "-o", tmp_path / "live", "--model", sdfm, "--intermediate", half)
    given = restore(*words, "-o", tmp_path / "given", "--model", sdfm, "--intermediate", results)
    assert (live.exit_code, given.exit_code) == (0, 1)
    failed = {line["input"]: line["reason"] for line in lines(tmp_path / "given") if line["reason"]}
    assert failed == {str(source / "c.png"): f"{results} holds no picture named c"}
    for name in ("a.png", "deep/b.png"):
        assert (tmp_path / "given" / name).read_bytes() == (tmp_path / "live" / name).read_bytes()
    two = restore(
        *words, "-o", tmp_path / "two", "--model", sdfm, "--intermediate", f"{half},{half}"
    )
    assert two.exit_code == 0
    assert np.array_equal(pixels(tmp_path / "two/a.png"), pixels(tmp_path / "live/a.png"))
    restore(*words, "-o", tmp_path / "own", "--model", sdfm)
    assert not np.array_equal(pixels(tmp_path / "own/a.png"), pixels(tmp_path / "live/a.png"))

    assert restore(*words, "-o", tmp_path / "as", "--model", f"folder:{results}").exit_code == 1
    assert np.array_equal(pixels(results / "a.png"), pixels(tmp_path / "as/a.png"))


@pytest.mark.shared
def test_a_photograph_without_faces_is_no_failure(
    tmp_path: Path, model: Path, face: images.Image, shared_dir: Path
) -> None:
    images_dir = tmp_path / "in"
    images_dir.mkdir()
    noise = np.random.default_rng(0).integers(256, size=(90, 160, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(images_dir / "noise.png")
    PIL.Image.fromarray(noise).save(images_dir / "scan.tif")
    PIL.Image.fromarray(face).save(images_dir / "face.png")
    detector = shared_dir / "weights" / "face_detection_yunet_2023mar.onnx"
    out = tmp_path / "out"
    words = ("--model", model, "--detector", detector)
    done = restore(images_dir, "-o", out, *words)
    assert done.exit_code == 0
    _, nothing, scan = lines(out)
    assert [one["status"] for one in lines(out)] == ["restored", "unchanged", "unchanged"]
    assert scan["output"] == str(out / "scan.tif")
    assert nothing["reason"] == "no face found"
    assert (out / "noise.png").read_bytes() == (images_dir / "noise.png").read_bytes()
    assert b"faces restored by HDRFace, model sd21-text" in (out / "face.png").read_bytes()
    assert restore(images_dir, "-o", out, *words, "--strip-metadata").exit_code == 0
    assert b"HDRFace" not in (out / "face.png").read_bytes()
    # A scan is copied under its own name; it becomes a PNG only if something is asked for.
    assert (out / "scan.tif").read_bytes() == (images_dir / "scan.tif").read_bytes()
    assert np.array_equal(pixels(out / "scan.png"), noise)


def test_a_model_comes_from_a_run_or_the_registry(
    tmp_path: Path, model: Path, face: images.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    # A version holds what the model names as well: it restores where nothing else is.
    packed = tmp_path / "packed"
    shutil.copytree(model, packed)
    needed = json.loads((model / "restorer.json").read_text())["needs"]["backbone"]
    shutil.copytree(model / needed["hint"], packed / "needs" / needed["fingerprint"])
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(packed), "model")
    client.create_registered_model("hdrface")
    client.create_model_version(
        "hdrface",
        f"{run.info.artifact_uri}/model",
        run.info.run_id,
        tags={registry.FINGERPRINT_TAG: Description.read(model).fingerprint},
    )
    client.set_registered_model_alias("hdrface", "champion", "1")
    picture = tmp_path / "face.png"
    PIL.Image.fromarray(face).save(picture)
    names = [f"runs:/{run.info.run_id}/model", "models:/hdrface@champion", "models:/hdrface/1"]
    written = []
    for number, name in enumerate(names):
        out = tmp_path / f"out{number}"
        assert restore(picture, "-o", out, "--model", name, "--aligned").exit_code == 0
        written.append((out / "face.png").read_bytes())
    assert len(set(written)) == 1
    for name, told in (
        ("models:/hdrface@nobody", "hdrface has no @nobody at sqlite"),
        (f"runs:/{'0' * 32}/model", f"run {'0' * 32} at sqlite"),
    ):
        absent = restore(picture, "-o", tmp_path / "no", "--model", name, "--aligned")
        assert isinstance(absent.exception, ValueError)
        assert told in str(absent.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing.png"], "nothing.png: no such file or folder"),
        (["face.png", "--model", "n0ne"], "'n0ne' is neither a folder here nor a name in MLflow"),
        (["face.png", "--model", "."], "'.' holds no restorer.json"),
        (["face.png", "--model", "models:/a@b"], "MLFLOW_TRACKING_URI is not set"),
        (["face.png"], "photographs need a face detector: give --detector FILE"),
        (["face.png", "--aligned", "--fidelity", "0.5"], "0.5: sd21-text accepts only 1"),
        (["face.png", "--scale", "9", "--min-face", "0"], "--min-face 0: Input should be greater"),
        (["face.png", "--color-fix", "lab"], "--color-fix lab: Input should be 'none', 'wavelet'"),
        (["face.png", "--format", "gif"], "--format gif: Input should be 'jpeg', 'png' or 'webp'"),
        (["face.png", "-o", "."], "face.png is an input: name another folder with -o"),
        (["face.png", "--max-angle", "30"], "max_angle needs an identity network"),
        (["face.png", "--intermediate", "."], "sd21-text uses no first restorations"),
        (["face.png", "--candidates", "2"], "sd21-text has no first restorer to make candidates"),
        (["face.png", "--choose", "local"], "--choose is for several first restorations"),
        (["face.png", "--preview", "."], "'hf download madebyollin/taesd config.json"),
        (["face.png", "--model", "onnx:x", "--preview", "."], "onnx:x is another project's"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_written(
    words: list[str],
    told: str,
    tmp_path: Path,
    model: Path,
    face: images.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    PIL.Image.fromarray(face).save("face.png")
    defaults = ["-o", "out"] if "-o" not in words else []
    defaults += ["--model", str(model)] if "--model" not in words else []
    done = restore(*words, *defaults)
    assert isinstance(done.exception, ValueError | FileNotFoundError)
    assert told in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["face.png"]


@needs_ffmpeg
def test_a_video_among_photographs(tmp_path: Path, model: Path, face: images.Image) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    make_video(source / "film.avi", [face[:96, :96], face[:96, 8:104]], sound=False)
    (source / "broken.mp4").write_bytes(b"no video")
    PIL.Image.fromarray(face).save(source / "face.png")
    done = restore(source, "-o", out, "--model", model, "--aligned", "--format", "jpeg")
    assert done.exit_code == 1
    results = {Path(line["input"]).name: line for line in lines(out)}
    assert "no video: " in results["broken.mp4"]["reason"]
    assert results["film.avi"]["record"]["num_frames"] == 2
    assert sorted(file.name for file in out.iterdir()) == ["face.jpg", "film.mkv", "results.jsonl"]


def test_without_ffmpeg_only_videos_fail(
    tmp_path: Path, model: Path, face: images.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    PIL.Image.fromarray(face).save(tmp_path / "face.png")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = restore(tmp_path, "-o", tmp_path / "out", "--model", model, "--aligned")
    assert done.exit_code == 1
    film, picture = sorted(lines(tmp_path / "out"), key=lambda line: line["status"])
    assert "videos need ffmpeg and ffprobe: install ffmpeg" in film["reason"]
    assert picture["status"] == "restored"
