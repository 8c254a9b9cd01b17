"""Crops and boxes of training pairs, and where they come from."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from engine.errors import ConfigError, DatasetError
from engine.training.config import TrainConfig
from engine.training.data import read_data
from engine.training.packed import pack
from engine.training.paint_cpu import paint_one, soft_mask
from engine.training.pairs import PairMaker
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, Still, read_pool, usable
from tests.engine.evaluation import trees
from tests.engine.training.data import COLOUR, TINY, picture, small_pool, write_folder

PLAIN = {
    "composite": 0,
    "fill": 0,
    "distractor": 0,
    "occlusion": 0,
    "grey": 0,
    "low_resolution": 0,
    "blur": 0,
    "noise": 0,
    "colours": 0,
    "hue": 0,
}


def painted(maker, index):
    """Template crop, search crop, box."""
    batch = maker.batch(index, 1)
    return batch.template[0].numpy(), batch.search[0].numpy(), batch.boxes[0].numpy()


def found_box(crop, size):
    """cx, cy, w, h over the crop's side of what has the object's colour (RGB crop)."""
    distance = np.abs(crop.astype(int) - np.array(COLOUR[::-1])).sum(-1)
    rows, columns = np.nonzero(distance < 120)
    x1, x2, y1, y2 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    return np.array([x1 + x2, y1 + y2, 2 * (x2 - x1), 2 * (y2 - y1)]) / 2 / size


def test_boxes_are_where_the_object_is():
    config = AugmentConfig(groups={"coco": 0.5, "video": 0.5}, rotation=0, aspect=0.2, centre_jitter=1.5, **PLAIN)
    maker = PairMaker(small_pool(), TINY, config, seed=3)
    for index in range(30):
        template, search, box = painted(maker, index)
        assert template.shape == (64, 64, 3)
        assert search.shape == (128, 128, 3)
        assert np.abs(found_box(search, 128) - box).max() < 0.015
        assert np.abs(found_box(template, 64)[:2] - 0.5).max() < 0.03


def test_the_template_box_is_the_targets_box_in_the_template():
    config = AugmentConfig(groups={"coco": 0.5, "video": 0.5}, rotation=0, reframe=0, **PLAIN)
    batch = PairMaker(small_pool(), TINY, config, seed=3).batch(0, 20)
    for template, box in zip(batch.template.numpy(), batch.template_boxes.numpy(), strict=True):
        assert np.abs(found_box(template, 64) - box).max() < 0.03
    other = dataclasses.replace(config, reframe=1.0, absent=1.0)  # also where the search region shows another object
    reframed = PairMaker(small_pool(), TINY, other, seed=3).batch(0, 20)
    sides = reframed.template_boxes[:, 2:]
    assert torch.allclose(sides.prod(1), torch.full((20,), 0.25))  # by the template factor 2
    assert sides.std(0).min() > 0.05


def test_a_bent_object_is_where_its_box_says():
    config = AugmentConfig(groups={"coco": 1.0}, rotation=0, aspect=0.2, centre_jitter=1.0, bend=1.0, **PLAIN)
    straight = dataclasses.replace(config, bend=0.0)
    makers = [PairMaker(small_pool(), TINY, one, seed=3) for one in (config, straight)]
    apart = []
    for index in range(30):
        _, search, box = painted(makers[0], index)
        assert makers[0].recipe(index).search.layers[0].bend is not None
        # a box lies between what its object would need as a rectangle, which this one is, and as an ellipse
        assert np.abs(found_box(search, 128) - box).max() < 0.05
        apart.append(np.abs(box[2:] - painted(makers[1], index)[2][2:]).max())
    assert np.mean(apart) > 0.01


def test_a_leaving_object_has_the_box_of_what_is_seen_of_it():
    config = AugmentConfig(groups={"coco": 0.5, "video": 0.5}, rotation=0, aspect=0, centre_jitter=1.0, leaving=1.0, **PLAIN)
    whole = PairMaker(small_pool(), TINY, dataclasses.replace(config, leaving=0.0), seed=3)
    maker = PairMaker(small_pool(), TINY, config, seed=3)
    shares = []
    for index in range(40):
        _, search, box = painted(maker, index)
        assert np.abs(found_box(search, 128) - box).max() < 0.015
        sides = box[2:] / painted(whole, index)[2][2:]
        assert sides.max() == pytest.approx(1, abs=1e-5)
        shares.append(sides.min())
    assert 0.39 <= min(shares) < 0.6
    assert max(shares) <= 1


def test_a_reframed_object_has_the_same_other_box_in_both_crops():
    """Template and search region show the object's box at the same place of what is followed, whatever part of it that is."""
    config = AugmentConfig(
        groups={"coco": 0.5, "video": 0.5}, rotation=0, aspect=0, centre_jitter=1.0, reframe=1.0, **(PLAIN | {"flip": 0.0})
    )
    maker = PairMaker(small_pool(), TINY, config, seed=3)
    sides = []
    for index in range(40):
        template, search, box = painted(maker, index)
        shown = found_box(search, 128)
        relative = np.concatenate([(shown[:2] - box[:2]) / box[2:], shown[2:] / box[2:]])
        aspect = box[2] / box[3]
        target = (
            np.array([np.sqrt(aspect), np.sqrt(1 / aspect)]) / TINY.template_factor
        )  # the box in the template: of this area, in its middle
        expected = np.concatenate([0.5 + relative[:2] * target, relative[2:] * target])
        whole = np.concatenate([expected[:2] - expected[2:] / 2, expected[:2] + expected[2:] / 2])
        if whole.min() > 0 and whole.max() < 1:
            assert np.abs(found_box(template, 64) - expected).max() < 0.04
            sides.append(1 / relative[2:])
    assert len(sides) > 10
    assert np.min(sides) < 0.7
    assert np.max(sides) > 1.2


def test_an_absent_object_is_not_in_the_search_region():
    config = AugmentConfig(groups={"coco": 0.5, "video": 0.5}, centre_jitter=1.0, absent=1.0, **(PLAIN | {"flip": 0.0, "leaving": 1.0}))
    maker = PairMaker(small_pool(), TINY, config, seed=3)
    kinds = {"hidden": 0, "beside": 0, "elsewhere": 0}
    for index in range(90):
        batch, recipe = maker.batch(index, 1), maker.recipe(index)
        assert not recipe.present
        assert batch.present.tolist() == [False]
        distance = np.abs(batch.search[0].numpy().astype(int) - np.array(COLOUR[::-1])).sum(-1)
        base, *above = recipe.search.layers
        if above:
            kinds["hidden"] += 1
            x, y, w, h = (recipe.box - [recipe.box[2] / 2, recipe.box[3] / 2, 0, 0]) * 128
            rows, columns = (slice(max(0, round(low)), max(0, round(low + side))) for low, side in ((y, h), (x, w)))
            assert soft_mask(above[0].cover, 128)[rows, columns].min(initial=1.0) > 0.9
        elif base.pictures is recipe.template.layers[0].pictures:
            kinds["beside"] += 1
            assert not (distance < 120).any()
        else:
            kinds["elsewhere"] += 1
    assert min(kinds.values()) > 10


def test_an_object_that_no_other_picture_shows_is_looked_for_beside_itself():
    pool = small_pool()
    alone = Pool({}, {"video": [*pool.clips["video"], Clip(pool.clips["video"][0].frames, pool.clips["video"][0].boxes)]})
    config = AugmentConfig(groups={"video": 1.0}, absent=1.0, **PLAIN)
    for recipe in map(PairMaker(alone, TINY, config, 0).recipe, range(20)):
        search = paint_one(recipe.search).astype(int)
        assert len(recipe.search.layers) == 2 or not (np.abs(search - np.array(COLOUR[::-1])).sum(-1) < 120).any()


def test_the_other_tracks_of_a_video_are_look_alikes():
    track = np.array([[60 + 10 * t, 80, 50, 40] for t in range(4)], float)
    frames = [picture(box) for box in track]
    other = track + np.array([100, 0, 0, 0])
    other[2] = np.nan
    pool = Pool({}, {"video": [Clip(frames, track), Clip(frames, other)]})
    config = AugmentConfig(groups={"video": 1.0}, distractors=1, **(PLAIN | {"distractor": 1.0}))
    pasted = [recipe.search.layers[1:] for recipe in map(PairMaker(pool, TINY, config, 0).recipe, range(40))]
    assert 5 < sum(map(len, pasted)) <= 40
    assert all(layer.pictures is frames for layers in pasted for layer in layers)


def test_what_shows_the_target_is_no_look_alike():
    """A second box around the target, one around all of it, and the target itself drawn for its class; its lower part may be pasted."""
    box, far, part = np.array([60.0, 50, 40, 40]), np.array([200.0, 120, 40, 40]), np.array([60.0, 80, 40, 10])
    boxes = np.stack([box, box + np.array([4, 2, 0, 0]), [50.0, 40, 80, 80], part, far])
    still = Still([picture(box)], 0, boxes, np.array([1, 2, 2, 2, 1]))
    maker = PairMaker(Pool({"coco": [still]}, {}), TINY, AugmentConfig(groups={"coco": 1.0}), 0)
    seen = [maker._still("coco", np.random.default_rng(seed)) for seed in range(80)]
    of_target = [one for one in seen if np.array_equal(one.first_box, box)]
    assert len(of_target) > 5
    for one in of_target:
        assert {tuple(other) for _, other in one.look_alikes} == {tuple(part), tuple(far)}
    track = np.array([[60 + 10 * t, 80, 50, 40] for t in range(4)], float)
    frames = [picture(place) for place in track]
    pool = Pool({}, {"video": [Clip(frames, track + np.array([right, 0, 0, 0])) for right in (0, 10, 100)]})
    maker = PairMaker(pool, TINY, AugmentConfig(groups={"video": 1.0}), 0)
    seen = [maker._track("video", np.random.default_rng(seed)) for seed in range(40)]
    assert {len(one.look_alikes) for one in seen} == {1, 2}
    for one in seen:
        assert all(abs(other[0] - one.second_box[0]) >= 90 for _, other in one.look_alikes)


def test_low_resolution_reaches_down_to_the_smallest_target():
    sizes = {}
    for smallest in (4.0, 12.0):
        config = AugmentConfig(**(PLAIN | {"low_resolution": 1.0}), smallest_target=smallest)
        maker = PairMaker(small_pool(), TINY, config, seed=0)
        sides = [recipe.search.look.small for recipe in map(maker.recipe, range(80))]
        sizes[smallest] = min(sides) / TINY.search_factor
    assert 4 <= sizes[4.0] < 5
    assert 11.5 <= sizes[12.0] < 14


def test_a_pair_depends_on_seed_and_index_only():
    maker, again, other = (PairMaker(small_pool(), TINY, AugmentConfig(), seed) for seed in (5, 5, 6))
    batch = maker.batch(7, 4)
    pairs = [painted(again, 28 + index) for index in (3, 1, 0, 2)]
    for place, index in enumerate((3, 1, 0, 2)):
        assert np.array_equal(batch.search[index], pairs[place][1])
        assert np.allclose(batch.boxes[index], pairs[place][2])
    assert not np.array_equal(painted(other, 28)[1], batch.search[0])


def test_every_augmentation_keeps_shape_and_a_sane_box():
    names = ("composite", "fill", "distractor", "occlusion", "bend", "leaving", "grey", "low_resolution", "blur", "noise")
    maker = PairMaker(small_pool(), TINY, AugmentConfig(**dict.fromkeys(names, 1.0)), seed=0)
    for index in range(20):
        template, search, box = painted(maker, index)
        assert template.dtype == search.dtype == np.uint8
        assert (template.shape, search.shape) == ((64, 64, 3), (128, 128, 3))
        assert ((box > 0) & (box < 1)).all()


def test_grey_is_grey_in_both_crops():
    maker = PairMaker(small_pool(), TINY, AugmentConfig(**(PLAIN | {"grey": 1.0})), seed=0)
    for crop in painted(maker, 0)[:2]:
        assert np.array_equal(crop[..., 0], crop[..., 1])
        assert np.array_equal(crop[..., 0], crop[..., 2])


def test_flips_of_one_crop_turn_its_box_alone():
    plain, apart = (AugmentConfig(**(PLAIN | {"flip": 0.0, "flip_apart": chance})) for chance in (0.0, 1.0))
    for index in range(4):
        one, other = (painted(PairMaker(small_pool(), TINY, config, seed=2), index) for config in (plain, apart))
        assert found_box(other[1], 128) == pytest.approx(other[2], abs=0.015)
        assert one[0].shape == other[0].shape


def test_brightness_is_a_factor_of_each_crop():
    maker = PairMaker(small_pool(), TINY, AugmentConfig(**(PLAIN | {"brightness": 0.2})), seed=0)
    looks = [look for index in range(50) for look in (maker.recipe(index).template.look, maker.recipe(index).search.look)]
    gains = np.array([look.table[200, 0] / 200 for look in looks])
    assert 0.8 <= gains.min() < 0.85
    assert 1.15 < gains.max() <= 1.2
    assert {look.saturation for look in looks} == {1.0}


def test_gaps_are_counted_in_frames_of_the_video():
    track = np.array([[60 + 10 * t, 80, 50, 40] for t in range(4)], float)
    clip = Clip([picture(box) for box in track], track, np.array([0, 50, 100, 150]))
    maker = PairMaker(Pool({}, {"video": [clip]}), TINY, AugmentConfig(max_gap=60, **PLAIN), 0)
    gaps = {abs(recipe.template.layers[0].index - recipe.search.layers[0].index) for recipe in map(maker.recipe, range(40))}
    assert gaps == {0, 1}


def test_clips_use_only_frames_that_have_a_box():
    clip = small_pool().clips["video"][0]
    assert clip.valid.tolist() == [0, 2, 3, 4, 5]
    assert Clip(clip.frames, np.zeros((6, 4))).valid.size == 0


def test_folder_is_read(tmp_path):
    pool = read_pool(write_folder(tmp_path))
    assert pool.describe() == {"coco": 4}
    assert np.array_equal(pool.stills["coco"][1].image, small_pool().stills["coco"][1].image)


def test_every_folder_of_pictures_and_clips_is_a_group(tmp_path):
    write_folder(tmp_path)
    shutil.copytree(tmp_path / "train_images" / "coco", tmp_path / "train_images2" / "cards")
    for folder, name in (("train_video", "dog"), ("train_video2", "fod_Bolt_00040"), ("train_video2", "otb_Deer")):
        trees.video(tmp_path / folder, name)
    assert read_pool(tmp_path).describe() == {"coco": 4, "cards": 4, "video": 6, "video2": 12}
    parts = ["video2:fod", "video", "video:absent"]
    assert read_pool(tmp_path, parts=parts).describe() == {"coco": 4, "cards": 4, "video": 6, "video2": 6, "video2:fod": 6}
    shutil.copytree(tmp_path / "train_images" / "coco", tmp_path / "train_images2" / "coco")
    with pytest.raises(DatasetError, match="two folders of pictures have the name coco"):
        read_pool(tmp_path)


def test_clips_elsewhere_are_a_group_of_the_name_that_the_configuration_gives(tmp_path):
    trees.video(tmp_path / "data" / "train_video", "dog")
    trees.video(tmp_path / "more", "cat")
    groups = AugmentConfig(groups={"video": 1, "animated": 1})
    config = TrainConfig(model=TINY, data=str(tmp_path / "data"), clips={"animated": str(tmp_path / "more")}, augment=groups)
    assert read_data(config).describe() == {"video": 6, "animated": 6}
    with pytest.raises(DatasetError, match=r"clips: .*data has a group video already"):
        read_data(config.replace(clips={"video": str(tmp_path / "more")}))
    with pytest.raises(DatasetError, match=r"clips: expected NAME\.mp4 with NAME\.txt in .*none, for the group animated, found none"):
        read_data(config.replace(clips={"animated": str(tmp_path / "none")}))
    assert read_data(config.replace(augment=AugmentConfig(groups={"video": 1}))).notes == (
        "the group animated of the data has no weight in the configuration: it is left out",
    )
    with pytest.raises(ConfigError, match=r"layouts are read alone: expected no pseudo and no clips, got 'labels'"):
        read_data(config.replace(layouts={"coco": str(tmp_path)}, pseudo="labels"))
    pack(read_data(config), tmp_path / "packed", TINY, config.augment, 8, 4)
    packed = read_data(config.replace(data=str(tmp_path / "packed"), pseudo="labels"))  # the same configuration trains on its shards
    assert packed.describe() == {"video": 6, "animated": 6}
    assert packed.notes == ("no clip belongs to the group pseudo of the configuration",)
    with pytest.raises(ConfigError, match="clips must name groups and their folders, got 'more'"):
        config.replace(clips="more")


def test_parts_that_data_and_configuration_do_not_share_are_named(tmp_path):
    trees.video(tmp_path / "train_video2", "fod_Bolt_00040")
    trees.video(tmp_path / "train_video2", "otb_Deer")
    config = TrainConfig(model=TINY, data=str(tmp_path), augment=AugmentConfig(groups={"video2": 1, "video2:fod": 0.1, "video2:fdo": 0.1}))
    pool = read_data(config)
    assert pool.notes == ("no clip belongs to the group video2:fdo of the configuration",)
    pack(pool, tmp_path / "packed", TINY, config.augment, 8, 4)
    whole = config.replace(data=str(tmp_path / "packed"), augment=AugmentConfig(groups={"video2": 1}))
    assert read_data(whole).notes == ("the group video2:fod of the data has no weight in the configuration: it is left out",)
    assert read_data(whole).describe() == {"video2": 6, "video2:fod": 6}


def test_missing_data_says_what_is_needed_and_where(tmp_path):
    with pytest.raises(DatasetError, match=r"train_images/NAME/img/.*boxes\.tsv.*--data DIR"):
        read_pool(tmp_path)
    (tmp_path / "train_images" / "coco" / "img").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"boxes\.tsv"):
        read_pool(tmp_path)


def test_tiny_boxes_are_left_out():
    assert usable(np.array([[0, 0, 4, 90], [0, 0, 12, 12], [0, 0, 16, 17]], float)).tolist() == [False, False, True]


def test_groups_that_are_not_in_the_data_are_refused():
    with pytest.raises(ConfigError, match="none of the groups"):
        PairMaker(small_pool(), TINY, AugmentConfig(groups={"lasot": 1.0}), 0)
    with pytest.raises(ConfigError, match="blur"):
        AugmentConfig(blur=1.5)
