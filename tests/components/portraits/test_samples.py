from itertools import islice

import cv2
import numpy as np
import pytest

from components import images
from components.faces import align
from components.portraits import drawing, samples


def test_the_packages_pictures_have_seven_faces_that_align() -> None:
    carried = list(samples.carried())
    assert [sample.name for sample in carried] == ["astronaut.png", "t1.jpg"]
    assert sum(len(sample.landmarks) for sample in carried) == 7
    for sample in carried:
        picture = images.decode(sample.data)
        for points in sample.landmarks:
            similarity = align.fit(points)
            assert similarity.misfit < 0.3  # one is a profile
            assert align.cut(picture, similarity, 64).std() > 20


def test_another_picture_under_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = samples._CARRIED[0]._replace(sha256="0" * 64)
    monkeypatch.setattr(samples, "_CARRIED", (other,))
    with pytest.raises(ValueError, match="its landmarks were measured on 0000"):
        list(samples.carried())


def test_the_first_portraits_do_not_depend_on_the_count() -> None:
    few, more = list(samples.drawn(4, 2)), list(islice(samples.drawn(4, 3), 2))
    assert [(sample.name, sample.data) for sample in few] == [
        (sample.name, sample.data) for sample in more
    ]
    assert few[1].name == "portrait-0001.png"


def test_a_portrait_does_not_depend_on_opencvs_threads() -> None:
    """Number 17 is one that did."""
    cv2.setNumThreads(8)
    [in_company] = islice(samples.drawn(1, 18), 17, 18)
    cv2.setNumThreads(1)
    alone = drawing.draw(1, 17)
    np.testing.assert_array_equal(images.decode_png(in_company.data), alone.image)
