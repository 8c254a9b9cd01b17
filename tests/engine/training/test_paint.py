"""The two painters carry the same recipes out: what PyTorch paints is what OpenCV paints, up to rounding."""

import cv2
import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from engine.training import paint_cpu
from engine.training.layouts import Pictures
from engine.training.paint_device import Painter
from engine.training.pairs import PairMaker
from engine.training.recipe import Bend, Blur, Crop, Ellipse, Layer, Look, blur_kernel
from engine.training.resolution import jpeg
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, Still
from tests.engine.training.data import TINY

CPU = torch.device("cpu")


def photograph(height, width, seed):
    """Smooth colours with edges: what a picture's neighbouring pixels are like."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        corner, colour = rng.integers(0, min(height, width), 2), rng.integers(0, 256, 3)
        cv2.circle(image, tuple(int(v) for v in corner), int(rng.integers(5, 40)), tuple(int(v) for v in colour), -1, cv2.LINE_AA)
    return image


PICTURES = [photograph(height, width, seed) for seed, (height, width) in enumerate(((90, 121), (200, 133), (64, 64), (171, 240)))]
TRACK = np.array([[20 + 5 * t, 30, 30, 24] for t in range(4)], float)
POOL = Pool(
    {"coco": [Still(PICTURES, i, np.array([[20.0, 15, 40, 30], [30, 30, 20, 25]]), np.array([1, 2])) for i in range(4)]},
    {"video": [Clip([photograph(120, 160, 10 + t) for t in range(4)], TRACK)]},
)
PAINTER = Painter(POOL, CPU, chunk=5)
TURNED = np.array([[0.9, 0.3, -12.5], [-0.2, 1.1, 7.25]])
PLACED = Ellipse(np.array([20.0, 10, 30, 40]), 3.0)
BENT = Bend(np.array([4.0, -2.5]), np.array([0.15, 0.2]), np.array([0.3, 2.0]))
DARKER = np.stack([np.arange(256) // 2, np.arange(256)[::-1], np.arange(256)], 1).astype(np.uint8)


def layer(index=0, matrix=TURNED, **changes):
    return Layer(PICTURES, index, PICTURES[index], matrix, **changes)


LOOKS = {
    "nothing": Look(),
    "flip": Look(flip=True),
    "hue": Look(hue=37.0),
    "negative hue": Look(hue=-121.0),
    "grey": Look(grey=True),
    "table": Look(table=DARKER),
    "faded": Look(saturation=0.3),
    "glaring": Look(saturation=1.7),
    "gaussian": Look(blur=Blur(sigma=1.3)),
    "motion": Look(blur=Blur(length=11, angle=0.7)),
    "small": Look(small=23),
    "barely smaller": Look(small=61),
    "jpeg": Look(small=64, quality=60),
    "small jpeg": Look(small=27, quality=85),
    "all": Look(True, 20.0, False, DARKER, 0.8, Blur(sigma=0.8), 40, 80),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looks_agree(name):
    crops = [Crop(64, (layer(index),), LOOKS[name]) for index in range(4)]
    expected, found = (paint(crops).to(torch.int16) for paint in (paint_cpu.paint, PAINTER))
    apart = (expected - found).abs().float()
    assert expected.float().std() > 20
    limit = (
        1.5 if LOOKS[name].quality else 0.6 if LOOKS[name].hue else 0.1
    )  # OpenCV's hue has steps of two degrees; libjpeg rounds in integers
    assert apart.mean() < limit, name
    assert apart.quantile(0.99) <= (10 if LOOKS[name].quality else 5 if LOOKS[name].hue else 1)
    if name != "nothing":
        changed = (paint_cpu.paint([Crop(64, crop.layers, Look()) for crop in crops]).to(torch.int16) - expected).abs().float().mean()
        assert changed > 2 * apart.mean(), "the look changes nothing that could disagree"


LAYERS = {
    "turned": (layer(),),
    "mirrored": (layer(1, np.array([[-0.7, 0, 90], [0, 0.7, -10]])),),
    "far outside": (layer(2, np.array([[1.0, 0, 500], [0, 1, 500]])),),
    "filled": (layer(1), layer(2, only_inside=True)),
    "bent": (layer(bend=BENT),),
    "bent and filled": (layer(1), layer(2, only_inside=True, bend=BENT)),
    "bent beside one that is not": (layer(1), layer(3, cover=PLACED, bend=BENT), layer(2, cover=PLACED)),
    "cut": (layer(3, window=np.array([12.3, -np.inf, np.inf, np.inf])),),
    "cut and filled": (layer(1), layer(3, cover=PLACED, window=np.array([-np.inf, -np.inf, np.inf, 31.0]))),
    "pasted": (layer(3), layer(0, cover=PLACED)),
    "many": (layer(3), layer(0, only_inside=True), layer(1, cover=PLACED), layer(2, cover=Ellipse(np.array([-5.0, 40, 20, 50]), 6.0))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree(name):
    crops = [Crop(64, LAYERS[name], Look())]
    expected, found = (paint(crops).to(torch.int16) for paint in (paint_cpu.paint, PAINTER))
    apart = (expected - found).abs().float()
    assert apart.mean() < 0.2
    assert apart.quantile(0.99) <= 2


def test_a_bend_shows_points_where_it_says():
    """A picture of dots, bent: each dot lies where `Bend.shown` puts it."""
    dots = np.array([[15.0, 20], [40, 12], [30, 45], [50, 50]])
    image = np.zeros((64, 64, 3), np.uint8)
    for x, y in dots:
        image[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
    bent = paint_cpu.warp(image, np.eye(2, 3), 64, BENT)[..., 0].astype(float)
    straight = paint_cpu.warp(image, np.eye(2, 3), 64)[..., 0].astype(float)
    for x, y in BENT.shown(dots).round().astype(int):
        assert bent[y - 1 : y + 2, x - 1 : x + 2].mean() > 150
    assert np.abs(BENT.shown(dots) - dots).max() > 2
    assert np.abs(bent - straight).max() > 200


def test_recipes_of_training_agree():
    always = dict.fromkeys(("composite", "distractor", "occlusion", "bend", "leaving", "absent"), 0.5) | {
        "noise": 0.0,
        "grey": 0.3,
        "blur": 0.5,
    }
    maker = PairMaker(POOL, TINY, AugmentConfig(**always), seed=11)
    on_device = PairMaker(POOL, TINY, AugmentConfig(**always), seed=11, painter=PAINTER)
    expected, found = maker.batch(3, 32), on_device.batch(3, 32)
    assert torch.equal(expected.boxes, found.boxes)
    assert torch.equal(expected.present, found.present)
    for one, other in ((expected.template, found.template), (expected.search, found.search)):
        apart = (one.to(torch.int16) - other.to(torch.int16)).abs().float().mean((1, 2, 3))
        assert apart.median() < 0.2
        assert apart.max() < 3


def test_a_batch_is_a_function_of_seed_and_step():
    always = AugmentConfig(noise=1.0)
    one, other = (PairMaker(POOL, TINY, always, seed=4, painter=Painter(POOL, CPU, chunk=chunk)) for chunk in (3, 128))
    whole = one.batch(5, 8)
    other.batch(2, 8)
    assert torch.equal(other.batch(5, 8).search, whole.search)
    assert torch.equal(other.batch(5, 8, slice(4, 8)).template, whole.template[4:])  # a process's part of the batch
    assert not torch.equal(one.batch(6, 8).search, whole.search)


@pytest.mark.parametrize("paint", [paint_cpu.paint, PAINTER], ids=["opencv", "pytorch"])
def test_noise_has_its_deviation_and_seed(paint):
    flat = Layer(PICTURES, 0, PICTURES[0], np.array([[1.0, 0, 0], [0, 1, 0]]))
    table = np.full((256, 3), 128, np.uint8)
    crops = [Crop(64, (flat,), Look(table=table, noise=noise)) for noise in ((1, 5.0), (1, 5.0), (2, 5.0), (1, 10.0))]
    first, again, other, strong = paint(crops).float()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(5.0, rel=0.05)
    assert float(strong.std()) == pytest.approx(10.0, rel=0.05)
    assert float(first.mean()) == pytest.approx(127.5, abs=0.3)  # rounded down


@pytest.mark.parametrize("quality", [35, 60, 95])
def test_jpeg_is_libjpegs(quality):
    image = photograph(128, 128, 5)
    expected = cv2.imdecode(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1], cv2.IMREAD_COLOR).astype(float)
    found = jpeg(torch.from_numpy(image).permute(2, 0, 1)[None].float(), [quality])[0].permute(1, 2, 0).numpy()
    loss = np.abs(expected - image).mean()
    assert np.abs(expected - found).mean() < 0.25 * loss + 0.2


def test_blur_kernels():
    straight = blur_kernel(Blur(length=5, angle=0.0))
    assert straight[7, 5:10] == pytest.approx([0.2] * 5)
    assert straight.sum() == pytest.approx(1)
    down = blur_kernel(Blur(length=15, angle=np.pi / 2))
    assert down[:, 7] == pytest.approx([1 / 15] * 15)
    gaussian = blur_kernel(Blur(sigma=1.0))
    assert gaussian[7, 7] / gaussian[7, 8] == pytest.approx(np.exp(0.5))


def test_pictures_that_are_read_when_drawn_are_refused(tmp_path):
    pool = Pool({"coco": [Still(Pictures([tmp_path / "a.jpg"]), 0, np.ones((1, 4)), np.zeros(1, int))]}, {})
    assert not pool.in_memory
    with pytest.raises(ConfigError, match="pack them first"):
        Painter(pool, CPU)
