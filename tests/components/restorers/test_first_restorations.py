"""First restorations by other programs: as a restorer folder, by name, or with the faces."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components import images
from components.restorers.by_folder import FolderRestorer
from components.restorers.catalogue import adopt
from components.restorers.folder import load_restorer
from components.weights.store import bring
from tests.first_restorers import give_first, write_results
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, trained

CPU = torch.device("cpu")


def faces(count: int, size: int = SIZE) -> torch.Tensor:
    draw = np.random.default_rng(0)
    return images.to_tensor(list(draw.integers(256, size=(count, size, size, 3), dtype=np.uint8)))


def test_results_are_found_by_name_and_variant(tmp_path: Path) -> None:
    stems = ["a", "b/c", "b/c.1", "b/c#2", "b/c#2.1", "d.jpg"]
    expected = write_results(tmp_path / "results", stems)
    restorer = FolderRestorer(tmp_path / "results", device=CPU)
    assert restorer.size == SIZE
    ids = ["a.jpg", "b/c.png", "b/c.png", "b/c.png#2", "b/c.png#2", "d.jpg"]
    found = restorer.restore(faces(6), ids, [0, 0, 1, 0, 1, 0])
    assert torch.equal(found.restored_B3HW, expected)


def test_missing_results_are_listed(tmp_path: Path) -> None:
    write_results(tmp_path / "results", ["a"])
    restorer = FolderRestorer(tmp_path / "results", device=CPU)
    with pytest.raises(ValueError, match=r"lacks results of 2 of 3 faces: b\.png, a\.png, v"):
        restorer.restore(faces(3), ["a.png", "b.png", "a.png"], [0, 0, 1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b""}, "holds no pictures"),
        ({"a.png": b"no picture"}, r"a\.png cannot be used: not a JPEG"),
        ({"a.png": b"", "a.jpg": b""}, "are results of one picture: remove one"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        FolderRestorer(tmp_path, device=CPU)


def test_results_of_another_size_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path, ["a"], size=2 * SIZE)
    with pytest.raises(ValueError, match=r"a\.png in .* is 64 pixels wide, the face 32"):
        FolderRestorer(tmp_path, device=CPU).restore(faces(1), ["a.png"], [0])


def test_an_onnx_file_can_be_the_first_restorer_of_a_trained_folder(
    tmp_path: Path, networks: Path
) -> None:
    network = onnx_network(tmp_path / "half.onnx", side=SIZE)
    adopt(f"onnx:{network}", tmp_path / "half")
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    give_first(folder, "intermediate", tmp_path / "half")
    place = bring(folder, tmp_path / "store")
    shutil.rmtree(tmp_path / "half")
    network.unlink()
    lq = faces(2)
    found = load_restorer(place).restore(lq, ["a", "b"], [0, 0])
    assert found.intermediate_B3HW is not None
    expected = images.rounded(0.5 + (lq - 0.5) / 2)
    torch.testing.assert_close(found.intermediate_B3HW, expected, atol=1.01 / 255, rtol=0)


def test_a_restorer_folder_is_known_by_its_content(tmp_path: Path) -> None:
    network = onnx_network(tmp_path / "half.onnx")
    prints = {adopt(f"onnx:{network}", tmp_path / name) for name in ("one", "two")}
    assert prints == {load_restorer(tmp_path / "one").fingerprint}
    with pytest.raises(FileExistsError, match="one is there already"):
        adopt(f"onnx:{network}", tmp_path / "one")
    (tmp_path / "two" / "half.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"half\.onnx has 7 bytes"):
        load_restorer(tmp_path / "two")


def test_results_stay_behind_when_a_folder_is_copied_and_new_faces_bring_theirs(
    tmp_path: Path, networks: Path
) -> None:
    expected = write_results(tmp_path / "pictures", ["a", "b"])
    adopt(f"folder:{tmp_path / 'pictures'}", tmp_path / "results")
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    give_first(folder, "results", tmp_path / "results")
    lq, ids, variants = faces(2), ["a.png", "b.png"], [0, 0]
    restorer = load_restorer(folder)
    assert restorer.intermediates == "given"
    looked_up = restorer.restore(lq, ids, variants)
    assert torch.equal(looked_up.intermediate_B3HW, expected)

    place = bring(folder, tmp_path / "store")
    assert len(list((tmp_path / "store").iterdir())) == 3  # the folder, SD 2.1 and DINOv3
    shutil.rmtree(tmp_path / "results")
    alone = load_restorer(place)
    given = alone.restore(lq, ids, variants, intermediate_B3HW=expected)
    assert torch.equal(given.restored_B3HW, looked_up.restored_B3HW)
    with pytest.raises(ValueError, match="has no first restorer: give first restorations"):
        alone.restore(lq, ids, variants)


def test_a_plain_restorer_refuses_first_restorations(tmp_path: Path, networks: Path) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "sd21", "text"))
    with pytest.raises(ValueError, match="sd21-text uses no first restorations"):
        restorer.restore(faces(1), ["a"], [0], intermediate_B3HW=faces(1))


def test_a_first_restorer_of_another_size_is_refused(tmp_path: Path, networks: Path) -> None:
    adopt(f"onnx:{onnx_network(tmp_path / 'wide.onnx', side=64)}", tmp_path / "wide")
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    give_first(folder, "intermediate", tmp_path / "wide")
    with pytest.raises(ValueError, match="wide restores faces of 64 pixels, sd21-sdfm faces of 32"):
        load_restorer(folder)
