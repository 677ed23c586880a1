from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.photographs import background
from components.photographs.background import SuperResolution, lanczos


def photograph(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = [120 + 80 * np.sin(columns / 9 + rows / (5 + k)) for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def test_lanczos_keeps_the_picture_where_it_is() -> None:
    small = photograph(60, 80)
    assert np.array_equal(lanczos(small, (80, 60)), small)
    large = lanczos(small, (240, 180))
    assert large.shape == (180, 240, 3)
    back = large.reshape(60, 3, 80, 3, 3).mean(axis=(1, 3))
    assert np.abs(back - small)[4:-4, 4:-4].mean() < 1.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small Real-ESRGAN network, x2, with the keys of the published ones."""
    compact = pytest.importorskip("spandrel.architectures.Compact")
    torch.manual_seed(0)
    network = compact.Compact(num_feat=8, num_conv=2, upscale=2)
    file = tmp_path_factory.mktemp("sr") / "compact.safetensors"
    save_file(network.state_dict(), file)
    return file


def test_tiles_make_the_picture_that_the_network_makes_of_the_whole(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlarge = SuperResolution(checkpoint, device="cpu")
    assert enlarge.factor == 2
    image = photograph(70, 100)
    whole = enlarge(image, (200, 140))
    monkeypatch.setattr(background, "TILE", 32)
    tiled = enlarge(image, (200, 140))
    assert np.abs(tiled.astype(int) - whole).max() <= 1  # rounding; a seam would be more
    assert enlarge(image, (150, 105)).shape == (105, 150, 3)


def test_a_pickle_of_tensors_loads_and_a_file_without_network_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    torch.save({"params": load_file(checkpoint)}, tmp_path / "published.pth")
    assert SuperResolution(tmp_path / "published.pth", device="cpu").factor == 2
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors holds no network"):
        SuperResolution(tmp_path / "other.safetensors", device="cpu")
    with pytest.raises(FileNotFoundError, match=r"missing.pth is missing"):
        SuperResolution(tmp_path / "missing.pth", device="cpu")
