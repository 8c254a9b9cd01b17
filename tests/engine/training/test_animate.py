"""Clips made of stills: boxes are what the pixels show, hidden objects have none, and the trainer reads what is written."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import DatasetError, SinkError
from engine.training.animate import Stage, main, write_clip
from engine.training.animation import HEIGHT, WIDTH, Actor, Scene, Wave
from engine.training.cutouts import Cutout, cut_out
from engine.training.sources import Still, read_clips
from engine.video.mp4 import Mp4

GREEN, RED = (40, 220, 40), (40, 40, 220)


def still(value):
    return Wave(value, 0.0, 0.0, 1.0, 0.0)


def actor(x, y, side=60, colour=GREEN, **changes):
    """A square of one colour around (x, y)."""
    cutout = Cutout(np.full((80, 80, 3), colour, np.uint8), np.ones((80, 80), np.float32))
    waves = {"turn": 0.0, "stretch": 0.0, "bend": 0.0, "light": 0.0} | changes
    return Actor(cutout, False, still(x), still(y), still(np.log(side)), **{name: still(value) for name, value in waves.items()})


def scene(*actors, bar=None):
    return Scene(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (still(0.0), still(0.0), still(0.0)), actors, bar)


def extent(image, colour):
    """x, y, w, h of the pixels that are mostly of this colour."""
    channel = int(np.argmax(colour))
    rows, columns = (np.flatnonzero((image[..., channel] > 110).any(axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


@pytest.mark.parametrize("changes", [{}, {"turn": 0.5}, {"stretch": 0.6}, {"bend": 0.1}, {"side": 120}, {"side": 31, "turn": -0.3}])
def test_a_box_is_the_extent_of_the_pixels(changes):
    image, boxes = scene(actor(200, 150, **changes)).frame(0.0)
    assert boxes[0] == pytest.approx(extent(image, GREEN), abs=1)


def test_a_turned_and_stretched_object_has_the_size_that_was_asked_for():
    assert scene(actor(200, 150)).frame(0.0)[1][0] == pytest.approx([170, 120, 60, 60], abs=1)
    assert scene(actor(200, 150, stretch=np.log(4) / 2, turn=np.pi / 2)).frame(0.0)[1][0] == pytest.approx(
        [178.8, 107.6, 42.4, 84.9], abs=1.5
    )


def test_what_hides_an_object_takes_its_box_only_if_little_is_left():
    boxes = scene(actor(200, 150), actor(230, 150, colour=RED)).frame(0.0)[1]  # half of it
    assert boxes == pytest.approx(np.array([[170, 120, 60, 60], [200, 120, 60, 60]]), abs=1)
    behind, front = scene(actor(200, 150), actor(210, 150, colour=RED)).frame(0.0)[1]
    assert np.isnan(behind).all()
    assert front == pytest.approx([180, 120, 60, 60], abs=1)


def test_a_bar_hides_all_objects():
    photo = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image, boxes = scene(actor(200, 150), actor(400, 150), bar=(photo, 50.0, still(200.0))).frame(0.0)
    assert np.isnan(boxes[0]).all()
    assert np.isfinite(boxes[1]).all()
    assert (image[:, 175:225] == 255).all()
    assert (image[:, :165] == 0).all()


def test_at_the_border_the_box_ends_with_the_frame():
    boxes = scene(actor(0, 150), actor(WIDTH + 20, 150), actor(-200, -200)).frame(0.0)[1]
    assert boxes[0] == pytest.approx([0, 120, 30, 60], abs=1)
    assert np.isnan(boxes[1:]).all()


def picture(seed=0):
    """A disc of 50 pixels around (100, 90) on a noisy ground."""
    image = np.random.default_rng(seed).integers(90, 140, (180, 220, 3), dtype=np.uint8)
    cv2.circle(image, (100, 90), 25, RED, -1)
    return image


def photo(box, seed=0):
    return Still([picture(seed)], 0, np.array([box], float), np.array([1]))


def test_an_object_is_cut_out_along_its_outline():
    found = cut_out(photo((70, 60, 60, 60)), 0)
    assert found is not None
    assert found.alpha.shape == pytest.approx((51, 51), abs=2)
    assert (found.alpha > 0.5).mean() == pytest.approx(np.pi / 4, abs=0.05)
    assert found.image[25, 25].tolist() == list(RED)


@pytest.mark.parametrize("box", [(90, 80, 20, 20), (0, 60, 130, 60), (5, 5, 40, 40)], ids=["small", "at the border", "nothing stands out"])
def test_what_has_no_outline_is_not_cut_out(box):
    assert cut_out(photo(box), 0) is None


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "train_images" / "discs"
    (folder / "img").mkdir(parents=True)
    lines = ["image\tcls\tx\ty\tw\th"]
    for seed in range(3):
        cv2.imwrite(str(folder / "img" / f"{seed}.png"), picture(seed))
        lines.append(f"{seed}.png\t1\t70\t60\t60\t60")
    (folder / "boxes.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_trainer_reads_the_clips_and_equal_seeds_give_equal_ones(data, tmp_path):
    for out, seed in (("one", 3), ("same", 3), ("other", 4)):
        main([str(data), str(tmp_path / out), "--clips", "2", "--seed", str(seed), "--groups", "discs"])
    one, same, other = (read_clips(tmp_path / out) for out in ("one", "same", "other"))
    assert sorted(one) == ["animated_3_0000", "animated_3_0001"]
    assert sorted(other) == ["animated_4_0000", "animated_4_0001"]
    for name, tracks in one.items():
        assert len(tracks) >= 2
        assert len({id(track.frames) for track in tracks}) == 1
        for track, again in zip(tracks, same[name], strict=True):
            assert np.array_equal(track.boxes, again.boxes, equal_nan=True)
            # Scenes are equal to the bit (next test); x264 does not always give equal files of them.
            assert np.abs(np.array(track.frames, float) - again.frames).mean() < 2
            known = track.boxes[np.isfinite(track.boxes).all(1)]
            assert (known[:, :2] >= 0).all()
            assert (known[:, :2] + known[:, 2:] <= (WIDTH, HEIGHT)).all()
            assert len(track.frames) == len(track.boxes) == 12


def test_equal_seeds_give_equal_scenes_to_the_bit():
    stages = [Stage({"discs": [photo((70, 60, 60, 60))]}, 3) for _ in range(2)]
    for number in range(2):
        scenes = [stage.scene(number) for stage in stages]
        for time in (0.0, 0.5, 1.0):
            (picture, boxes), (again, same) = (scene.frame(time) for scene in scenes)
            assert np.array_equal(picture, again)
            assert np.array_equal(boxes, same, equal_nan=True)


def test_nobody_is_cast_twice_in_a_scene(monkeypatch):
    """Of two equal objects nobody can say which one is the target."""
    stills = [photo((70, 60, 60, 60)) for _ in range(12)]
    monkeypatch.setattr("engine.training.animate.cut_out", lambda still, number: Cutout(still.image[:8, :8], np.ones((8, 8), np.float32)))
    stage, counts = Stage({"discs": stills}, 5), set()
    for number in range(30):
        cast = [actor.cutout.image.base for actor in stage.scene(number).actors]
        assert len({id(image) for image in cast}) == len(cast)
        counts.add(len(cast))
    assert counts == {4, 5, 6}
    assert len(Stage({"discs": stills[:2]}, 5).scene(0).actors) == 2


def test_a_failure_leaves_no_video(data, tmp_path, monkeypatch):
    stage = Stage({"discs": [photo((70, 60, 60, 60))]}, 0)
    empty = dataclasses.replace(stage.scene(0), actors=())

    def fail(*arguments):
        raise SinkError("disk full")

    monkeypatch.setattr(Mp4, "_encode", fail)
    with pytest.raises(SinkError, match="disk full"):
        write_clip(empty, tmp_path / "clip.mp4")
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--groups", "discs,cats"], "no pictures of the group cats, expected some of discs"),
        (["--clips", "0"], "expected one clip or more and a seed of zero or more, got 0 and 0"),
        (["--seed", "-1"], "got 600 and -1"),
    ],
)
def test_what_does_not_fit_is_said(data, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main([str(data), str(tmp_path / "out"), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stills_without_an_object_that_can_be_cut_out(tmp_path):
    stage = Stage({"noise": [photo((5, 5, 40, 40))]}, 0)
    with pytest.raises(DatasetError, match="no object could be cut out"):
        stage.scene(0)
