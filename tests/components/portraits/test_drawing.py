import numpy as np

from components.faces import align
from components.keyed_random import generator
from components.portraits import canvas, choosing, drawing, features


def test_a_portrait_depends_only_on_seed_and_number() -> None:
    first = drawing.draw(1, 3)
    drawing.draw(1, 4)
    again = drawing.draw(1, 3)
    assert (first.image == again.image).all()
    assert (first.landmarks == again.landmarks).all()
    assert (first.image != drawing.draw(1, 4).image).any()
    assert (first.image != drawing.draw(2, 3).image).any()


def test_landmarks_are_those_of_an_upright_face_inside_the_picture() -> None:
    for number in range(300):
        person = choosing.choose(generator(5, f"portrait-{number:04d}", 0, "traits"), drawing.SIZE)
        points = features.landmarks(canvas.prepare(person, drawing.SIZE))
        similarity = align.fit(points)
        assert similarity.misfit < 0.12
        assert 200 < similarity.crop_side < 330
        assert points.min() > 60
        assert points.max() < drawing.SIZE - 40


def test_the_picture_has_the_eyes_where_the_landmarks_say() -> None:
    for number in range(12):
        portrait = drawing.draw(9, number)
        for x, y in portrait.landmarks[:2]:
            eye = portrait.image[round(y) - 5 : round(y) + 6, round(x) - 5 : round(x) + 6]
            assert eye.min() < 80  # a pupil, or the lid of a narrow eye


def test_pixel_and_face_coordinates_are_inverse_to_each_other() -> None:
    person = choosing.choose(generator(1, "someone", 0, "traits"), 320)
    sheet = canvas.prepare(person, 320)
    points = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.6], [0.3, 1.0]])
    for (x, y), (u, v) in zip(sheet.to_pixels(points), points, strict=True):
        row, column = round(y), round(x)
        assert abs(sheet.u[row, column] - u) < sheet.pixel
        assert abs(sheet.v[row, column] - v) < sheet.pixel


def test_people_differ() -> None:
    people = [choosing.choose(generator(2, str(number), 0, "traits"), 320) for number in range(150)]
    brightness = [sum(person.skin) for person in people]
    assert max(brightness) > 5 * min(brightness)
    assert len({person.style for person in people}) == len(
        set(choosing.SHORT_STYLES + choosing.LONG_STYLES)
    )
    assert {person.glasses for person in people} == {"", "round", "square", "rimless"}
    assert {person.beard for person in people} == {"", "stubble", "moustache", "short", "full"}
    assert {person.light_side > 0 for person in people} == {True, False}
