"""Pictures come back as they were written, and a gate's colours mean what the scale says."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from skimage.data import astronaut

from components import images
from components.reporting.comparison import Compared, Pair
from components.reporting.gallery import Gallery, fit, heat_map, make_picture


def _compared(gate: np.ndarray | None, *, size: int = 64, face_id: str = "ä b.jpg#1") -> Compared:
    hq = images.resize(astronaut()[20:220, 120:320].copy(), size)
    lq = images.resize(images.resize(hq, size // 4), size)
    middle = None if gate is None else images.resize(images.resize(hq, size // 2), size)
    scores = {"psnr": {"degraded": 20.0, "restored": 21.5}}
    return Compared(Pair(face_id, 0, hq, lq), middle, hq, gate, scores)


def test_a_gallery_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    gates = [np.full((4, 4), 0.213, np.float32), np.full((4, 4), 0.488, np.float32)]
    gallery = Gallery.of("sd21-sdfm", [_compared(gate) for gate in gates])
    gallery.write(tmp_path / "sd21-sdfm")
    read = Gallery.read(tmp_path / "sd21-sdfm")
    assert read.limits == (0.21, 0.49)
    for one, other in zip(gallery.faces, read.faces, strict=True):
        assert (one.face_id, one.variant, one.scores) == (
            other.face_id,
            other.variant,
            other.scores,
        )
        assert list(other.pictures) == ["lq", "intermediate", "restored", "hq", "gate"]
        for role, picture in one.pictures.items():
            assert (other.pictures[role] == picture).all()


def test_faces_that_got_worse_are_kept_beside_those_that_were_chosen(tmp_path: Path) -> None:
    gate = np.full((4, 4), 0.3, np.float32)
    gallery = Gallery.of("m", [_compared(gate)], [_compared(gate * 2, face_id="worst")])
    gallery.write(tmp_path / "m")
    read = Gallery.read(tmp_path / "m")
    assert [face.face_id for face in read.faces] == ["ä b.jpg#1"]
    [failure] = read.failures
    assert failure.face_id == "worst"
    assert (failure.pictures["gate"] == gallery.failures[0].pictures["gate"]).all()
    assert read.limits == (0.3, 0.61)  # one scale for both
    assert make_picture(read, cell=64).shape[0] < 2 * 64 + 40  # the strip shows what was chosen


def test_a_gallery_written_again_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    Gallery.of("m", [_compared(None) for _ in range(3)]).write(tmp_path / "m")
    Gallery.of("m", [_compared(None)]).write(tmp_path / "m")
    files = sorted(file.name for file in (tmp_path / "m").iterdir())
    assert files == ["01-hq.png", "01-lq.png", "01-restored.png", "gallery.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_heat_map_colours_are_those_of_the_scale_patch_by_patch() -> None:
    face = np.zeros((8, 8, 3), np.uint8)
    gate = np.array([[0.2, 0.4], [0.3, 0.4]], np.float32)
    heat = heat_map(face, gate, (0.2, 0.4))
    # Over black, a tile is the colour itself, darkened alike everywhere.
    ends = [np.array(colormaps["viridis"](end)[:3]) * 255 for end in (0, 255)]
    darkened = heat[0, 0, 2] / ends[0][2]
    assert 0.5 < darkened < 0.8
    assert heat[0, 0] == pytest.approx(ends[0] * darkened, abs=1)
    assert heat[0, 7] == pytest.approx(ends[1] * darkened, abs=2)
    assert (heat[:4, :4] == heat[0, 0]).all()
    assert (heat[:4, 4:] == heat[7, 7]).all()
    assert not (heat[7, 0] == heat[0, 0]).all()


def test_gates_of_one_value_have_a_scale_too() -> None:
    gallery = Gallery.of("m", [_compared(np.full((2, 2), 0.25, np.float32))])
    assert gallery.limits == (0.25, 0.26)


def test_a_strip_has_one_row_per_face_and_one_column_per_role() -> None:
    faces = [_compared(np.full((4, 4), value, np.float32)) for value in (0.2, 0.5)]
    gallery = Gallery.of("m", faces)
    strip = make_picture(gallery, cell=128)
    assert strip.dtype == np.uint8
    height, width = strip.shape[:2]
    assert width == 4 + 5 * (128 + 4)
    assert height == 25 + 2 * (128 + 4)
    # Pixels stay pixels: the first face's LQ stands in the upper left, each pixel as 2 x 2.
    lq = gallery.faces[0].pictures["lq"]
    assert (strip[25 : 25 + 128 : 2, 4 : 4 + 128 : 2] == lq).all()
    with pytest.raises(ValueError, match="has no face to draw"):
        make_picture(Gallery("m", (), None))


def test_a_large_picture_is_reduced_by_area() -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[::2] = 255
    assert np.ptp(fit(picture, 64)) <= 1
