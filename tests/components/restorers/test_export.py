"""Exported restorers: files that others run, equal to what was trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from components import images
from components.restorers import export as exporting
from components.restorers.by_export import ExportRestorer
from components.restorers.catalogue import open_of_others
from components.restorers.export import export
from components.restorers.folder import load_alone, load_restorer
from components.restorers.parts import parts_of
from pipelines.cli import app
from tests.small_networks import SIZE, trained

CPU = torch.device("cpu")


def faces(count: int) -> Tensor:
    draw = np.random.default_rng(0)
    return images.to_tensor(list(draw.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)))


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Path:
    """Return SD's trained folder, whose generator has low-rank layers."""
    return trained(tmp_path_factory.mktemp("models"), networks, "sd21", "sdfm", rank=2)


@pytest.fixture(scope="module")
def exported(gated: Path) -> Path:
    out = gated.parent / "exported"
    written = export(gated, "onnx", out)
    names = ["encoder", "gate", "unet", "vae_encoder", "vae_decoder"]
    assert [one.name for one in written] == names
    assert max(one.difference for one in written) < 1e-5
    return out


def test_onnx_runtime_restores_as_the_trained_folder_does(gated: Path, exported: Path) -> None:
    restorer = open_of_others(f"onnx:{exported}", device=CPU)
    assert isinstance(restorer, ExportRestorer)
    original = load_restorer(gated)
    lq, first = faces(3), faces(3).flip(0)
    ids, variants = ["a", "b", "c"], [0, 0, 0]
    found = restorer.restore(lq, ids, variants, intermediate_B3HW=first)
    wanted = original.restore(lq, ids, variants, intermediate_B3HW=first)
    assert float((found.restored_B3HW - wanted.restored_B3HW).abs().max()) <= 1.01 / 255
    assert found.alpha_BHW is not None
    assert wanted.alpha_BHW is not None
    torch.testing.assert_close(found.alpha_BHW, wanted.alpha_BHW, atol=1e-4, rtol=0)
    assert (restorer.name, restorer.size) == (original.name, original.size)


def test_first_restorations_are_given_or_another_restorer_makes_them(
    gated: Path, exported: Path
) -> None:
    restorer, original = ExportRestorer(exported, device=CPU), load_restorer(gated)
    lq = faces(1)
    assert restorer.intermediates == "given"
    with pytest.raises(ValueError, match="without its first restorer: give first restorations"):
        restorer.restore(lq, ["a"], [0])
    restorer.build_on(load_restorer(gated.parent / "qwen-text"))
    assert restorer.intermediates == "made"
    found = restorer.restore(lq, ["a"], [0])
    wanted = original.restore(lq, ["a"], [0])
    assert found.intermediate_B3HW is not None
    assert wanted.intermediate_B3HW is not None
    assert torch.equal(found.intermediate_B3HW, wanted.intermediate_B3HW)
    assert float((found.restored_B3HW - wanted.restored_B3HW).abs().max()) <= 1.01 / 255


def test_the_written_description_joins_the_parts(gated: Path, exported: Path) -> None:
    """Restore by export.json and ONNX Runtime alone, as the equations of the paper say."""
    import onnxruntime

    told = json.loads((exported / "export.json").read_text())

    def run(part: str, *inputs: np.ndarray) -> np.ndarray:
        file = exported / told["parts"][part]["file"]
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        assert names == list(told["parts"][part]["inputs"])
        return session.run(None, dict(zip(names, inputs, strict=True)))[0]

    lq, first = faces(1).numpy(), faces(2)[1:].numpy()
    condition = run("gate", run("encoder", first), run("encoder", lq))
    z = told["scaling"] * run("vae_encoder", 2 * lq - 1)
    # 0.426: METHOD, section 3
    assert told["alpha_bar"] == pytest.approx(0.426, abs=5e-4)
    epsilon = run("unet", z, condition)
    z_hat = (z - np.sqrt(1 - told["alpha_bar"]) * epsilon) / np.sqrt(told["alpha_bar"])
    z_hat = z_hat.astype(np.float32)
    restored = (run("vae_decoder", z_hat / np.float32(told["scaling"])) + 1) / 2
    wanted = load_restorer(gated).restore(
        torch.from_numpy(lq), ["a"], [0], intermediate_B3HW=torch.from_numpy(first)
    )
    # Here nothing is rounded to float16 or to 8 bits.
    assert np.abs(restored.clip(0, 1) - wanted.restored_B3HW.numpy()).max() < 1.5 / 255


def test_a_restorer_under_a_text_is_exported_with_its_prompt(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    written = export(folder, "onnx", tmp_path / "out")
    assert [one.name for one in written] == ["unet", "vae_encoder", "vae_decoder"]
    assert {file: file.read_bytes() for file in before} == before
    restorer = ExportRestorer(tmp_path / "out", device=CPU)
    found = restorer.restore(faces(2), ["a", "b"], [0, 0]).restored_B3HW
    wanted = load_restorer(folder).restore(faces(2), ["a", "b"], [0, 0]).restored_B3HW
    assert float((found - wanted).abs().max()) <= 1.01 / 255
    with pytest.raises(ValueError, match="uses no first restorations"):
        restorer.restore(faces(1), ["a"], [0], intermediate_B3HW=faces(1))


def test_low_rank_layers_and_the_timestep_are_in_the_weights(exported: Path) -> None:
    import onnx

    graph = onnx.load(exported / "unet.onnx", load_external_data=False).graph
    names = {one.name for one in graph.initializer}
    assert any("conv_in.weight" in name for name in names)
    assert not [name for name in names if "lora" in name or "time_embedding" in name]


@pytest.mark.cluster  # half a minute on a free core
def test_programs_of_torch_export_are_equal_at_another_batch_size(
    gated: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        app, ["export", str(gated), "--format", "torch-export", "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert max(part["largest_difference"] for part in told["parts"].values()) < 1e-5
    program = torch.export.load(tmp_path / "out" / "unet.pt2").module()
    original = load_restorer(gated).backbone.generator
    shapes = told["parts"]["unet"]["inputs"]
    latent, tokens = (torch.randn(3, *shapes[name]) for name in ("latent", "condition"))
    with torch.no_grad():
        wanted = original(latent, torch.tensor(399), tokens).sample
        torch.testing.assert_close(program(latent, tokens), wanted, atol=1e-4, rtol=1e-4)


def test_the_gate_as_a_program_is_equal_at_another_batch_size(gated: Path, tmp_path: Path) -> None:
    (gate,) = (part for part in parts_of(load_alone(gated)) if part.name == "gate")
    assert exporting.write(gate, "torch-export", tmp_path).difference < 1e-5
    program = torch.export.load(tmp_path / "gate.pt2").module()
    tokens = torch.randn(3, 9, 32), torch.randn(3, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(program(*tokens), gate.module(*tokens))


def test_a_part_that_differs_leaves_nothing_behind(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    monkeypatch.setattr(exporting, "LARGEST_DIFFERENCE", 0.0)
    monkeypatch.setattr(
        exporting,
        "parts_of",
        lambda restorer: (part for part in parts_of(restorer) if part.name == "vae_encoder"),
    )
    out = tmp_path / "new" / "out"
    done = CliRunner().invoke(app, ["export", str(folder), "--format", "onnx", "-o", str(out)])
    assert done.exit_code == 1
    assert "differ from the original by more than 0.0: nothing was written" in done.stderr
    assert list(out.parent.iterdir()) == []
    assert "vae_encoder.onnx" in done.stdout


def test_what_cannot_be_exported_is_refused(tmp_path: Path, networks: Path) -> None:
    with pytest.raises(ValueError, match="qwen-text is on qwen: only restorers on sd21"):
        export(trained(tmp_path, networks, "qwen", "text"), "onnx", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="is there already: name a new folder"):
        export(tmp_path, "onnx", tmp_path / "there")


def test_a_damaged_export_is_named(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    data = bytearray((folder / "unet.onnx.data").read_bytes())
    data[-1] ^= 1
    (folder / "unet.onnx.data").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"unet\.onnx\.data has SHA-256"):
        ExportRestorer(folder, device=CPU)


def test_a_provider_that_is_absent_is_no_slow_cpu(exported: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    with pytest.raises(ValueError, match="has no CUDAExecutionProvider here"):
        ExportRestorer(exported, device=torch.device("cuda"))


def test_a_provider_is_told(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        ExportRestorer(exported, device=CPU)
    assert "unet.onnx: ONNX Runtime, CPUExecutionProvider" in caplog.text
