"""A picture added to the source makes `dvc repro` run again, and nothing else does."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from components import images
from components.portraits import drawing
from components.tables import Table
from tests.components.faces import s3_server
from tests.end_to_end.checkout import Checkout

Put = Callable[[str, bytes], object]
Place = tuple[str, Put, Mapping[str, str]]  # its name, how to add to it, what DVC must know


@contextmanager
def in_a_folder(folder: Path) -> Iterator[Place]:
    source = folder / "Fotos für alle"
    source.mkdir()
    yield str(source), lambda name, data: (source / name).write_bytes(data), {}


@contextmanager
def in_s3(folder: Path) -> Iterator[Place]:
    del folder
    with s3_server.serve("photos", {}) as environment:
        client = s3_server.connect(environment)
        yield (
            "s3://photos/in",
            lambda name, data: client.put_object(Bucket="photos", Key=f"in/{name}", Body=data),
            environment,
        )


def faces_and_rejected(checkout: Checkout) -> tuple[list[str], list[str]]:
    table = Table.open(checkout.folder / "data/faces")
    faces = sorted(table.read(columns=["face_id"])["face_id"].to_pylist())
    return faces, [rejection.id for rejection in table.rejected]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.parametrize("place", [in_a_folder, in_s3])
def test_an_added_picture_makes_the_faces_again(
    place: Callable[[Path], AbstractContextManager[Place]], tmp_path: Path
) -> None:
    """With a Ray of its own: the workers of a running one do not know the test's server."""
    portrait = images.encode_png(drawing.draw(3, 0).image)
    with place(tmp_path) as (source, put, environment):
        checkout = Checkout(tmp_path / "checkout", os.environ | environment)
        put("a b.png", portrait)
        put("text.jpg", b"no picture")
        checkout.hdrface("config", "use", "smoke", f"faces.source={source}", "faces.aligned=true")
        checkout.succeed("dvc", "repro", "faces")
        assert faces_and_rejected(checkout) == (["a b.png"], ["text.jpg"])
        assert "Running stage" not in checkout.succeed("dvc", "repro", "faces")

        put("ä.png", portrait)
        assert "Running stage 'faces'" in checkout.succeed("dvc", "repro", "faces")
        assert faces_and_rejected(checkout) == (["a b.png", "ä.png"], ["text.jpg"])
