"""Regions of pictures as targets."""

import dataclasses

import cv2
import numpy as np
import pytest

from engine.training.pairs import PairMaker
from engine.training.regions import draw_region
from engine.training.settings import AugmentConfig
from engine.training.sources import Pool, Still
from tests.engine.training.data import TINY, small_pool
from tests.engine.training.test_pairs import PLAIN, painted


def mapped(size=(240, 320)):
    """A picture whose blue and green say where one is in it, x and y by half a grey level a pixel, and whose red is coarse noise."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.dstack([columns / 2, rows / 2, noise]).astype(np.uint8)


def test_a_region_lies_in_the_picture_and_can_be_told_from_what_surrounds_it():
    image = np.full((200, 300, 3), 90, np.uint8)
    image[:, 150:] = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    boxes = [box for seed in range(60) if (box := draw_region(image, np.random.default_rng(seed))) is not None]
    assert len(boxes) > 40
    for x, y, w, h in boxes:
        assert x >= 0
        assert y >= 0
        assert x + w <= 300 + 1e-9
        assert y + h <= 200 + 1e-9
        assert 24 - 1e-9 <= np.sqrt(w * h) <= 100 + 1e-9
        assert x + w > 150, "nothing but the plain half"


@pytest.mark.parametrize(
    "image",
    [
        np.full((200, 300, 3), 90, np.uint8),  # plain
        np.repeat(np.random.default_rng(0).integers(0, 256, (200, 1, 3), dtype=np.uint8), 300, axis=1),  # the same along x
        np.random.default_rng(0).integers(0, 256, (40, 300, 3), dtype=np.uint8),  # too low for the smallest region
    ],
    ids=["plain", "stripes", "small"],
)
def test_a_picture_without_such_a_region_gives_none(image):
    assert all(draw_region(image, np.random.default_rng(seed)) is None for seed in range(20))


def test_template_and_search_region_show_the_same_region():
    pool = Pool({"coco": [Still([mapped()], 0, np.array([[20.0, 20, 40, 40]]), np.array([0]))]}, {})
    config = AugmentConfig(groups={"coco": 1.0}, rotation=0, aspect=0, centre_jitter=1.0, region=1.0, **(PLAIN | {"flip": 0.0}))
    maker = PairMaker(pool, TINY, config, seed=3)
    places = []
    for index in range(30):
        template, search, box = painted(maker, index)
        (cx, cy), size = box[:2] * 128, np.sqrt(box[2:].prod()) * 128
        rows, columns = (slice(max(0, int(c - size / 4)), int(c + size / 4) + 1) for c in (cy, cx))
        whole = cx > size / 4 and cy > size / 4 and max(cx, cy) + size / 4 < 127  # of the part that is looked at
        if whole:
            shown, sought = template[24:41, 24:41, 1:].mean((0, 1)), search[rows, columns, 1:].mean((0, 1))  # RGB: green, blue
            assert np.abs(shown - sought).max() < 2  # grey levels: four pixels of the picture
            places.append(shown)
    assert len(places) > 20
    assert np.std(places, axis=0).min() > 10, "always the same place"


def test_other_regions_of_the_picture_look_alike_and_clips_keep_their_objects():
    config = AugmentConfig(groups={"coco": 0.5, "video": 0.5}, region=1.0, **PLAIN)
    pool = small_pool()
    maker = PairMaker(
        dataclasses.replace(pool, stills={"coco": [Still([mapped()], 0, np.array([[20.0, 20, 40, 40]]), np.array([0]))]}),
        TINY,
        config,
        seed=3,
    )
    rng = np.random.default_rng(0)
    seen = [maker._draw(rng) for _ in range(40)]
    for one in seen:
        if one.moving:
            assert any((one.first_box == box).all() for box in pool.clips["video"][0].boxes)
        else:
            assert len(one.look_alikes) == 2
            assert not any((one.first_box == box).all() for _, box in one.look_alikes)
    assert {one.moving for one in seen} == {False, True}


def test_a_picture_without_regions_gives_its_objects():
    pool = Pool({"coco": [Still([np.full((240, 320, 3), 30, np.uint8)], 0, np.array([[80.0, 60, 60, 60]]), np.array([0]))]}, {})
    maker = PairMaker(pool, TINY, AugmentConfig(groups={"coco": 1.0}, region=1.0, **PLAIN), seed=3)
    rng = np.random.default_rng(0)
    assert all(np.array_equal(maker._draw(rng).first_box, [80, 60, 60, 60]) for _ in range(20))
