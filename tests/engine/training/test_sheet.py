"""Contact sheets show the pairs and the data as they are, boxes where they belong."""

import cv2
import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from engine.training.pairs import Batch, PairMaker
from engine.training.settings import AugmentConfig
from engine.training.sheet import data_sheet, pair_sheet, write_picture
from engine.training.sources import Clip, Pool
from tests.engine.training.data import COLOUR, TINY, small_pool

GREEN, RED = np.array((60, 230, 60)), np.array((60, 60, 230))


def has(image, colour):
    return bool((image == colour).all(-1).any())


def test_a_pair_is_shown_with_its_box_and_an_absent_target_without():
    template, search = torch.full((3, 8, 8, 3), 100, dtype=torch.uint8), torch.full((3, 16, 16, 3), 200, dtype=torch.uint8)
    search[2, ..., 2] = 10  # RGB: little blue
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.5, 0.5, 0.25, 0.5], [0.25, 0.75, 0.25, 0.25]])
    sheet = pair_sheet(Batch(template, search, boxes, torch.tensor([True, False, True]), boxes), columns=2)
    width, height = 8 + 4 + 16 + 4 + 4, 16 + 4
    assert sheet.shape == (2 * height, 2 * width, 3)
    first, second, third = sheet[:height, :width], sheet[:height, width:], sheet[height:, :width]
    drawn = (first[:8, :8] == GREEN).all(-1)
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (3, 2, 5, 6)
    assert (first[:8, :8][~drawn] == 100).all()
    assert not drawn[3:6, 4].any()
    region = first[:16, 12:28]
    rows, columns = np.nonzero((region == GREEN).all(-1))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (6, 4, 10, 12)
    assert not has(first, RED)
    assert has(second, RED)
    assert has(second[:8, :8], GREEN)  # the template has its target
    assert not has(second[:, 8:], GREEN)
    assert not has(second[8:], GREEN)
    assert (third[1, 13] == (10, 200, 200)).all()  # BGR
    assert (sheet[height:, width:] == 32).all()  # no fourth pair


def test_pairs_of_the_maker_have_their_box_around_the_object():
    config = AugmentConfig(groups={"coco": 1.0}, composite=0, distractor=0, occlusion=0, colours=0, hue=0, grey=0, blur=0, noise=0)
    maker = PairMaker(small_pool(), TINY, config, seed=1)
    batch = maker.batch(0, 4)
    assert batch.present.all()
    sheet = pair_sheet(batch, columns=4)
    assert sheet.shape == (132, 4 * (64 + 4 + 128 + 4 + 4), 3)
    cell = sheet[:128, 68:196]
    rows, columns = np.nonzero((cell == GREEN).all(-1))
    inside = cell[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
    share = (np.abs(inside.astype(int) - COLOUR).max(-1) < 40).mean()
    assert share > 0.7


def test_data_are_shown_by_group_with_every_track_of_a_video_in_one_cell():
    pool = small_pool()
    (clip,) = pool.clips["video"]
    there = np.full_like(clip.boxes, np.nan)
    there[4] = [200, 20, 60, 40]
    pool = Pool(pool.stills, {"video": [clip, Clip(clip.frames, there)]})
    sheet = data_sheet(pool, per_group=3, columns=2)
    cell = (180 + 4, 240 + 4)
    assert sheet.shape == (18 + 2 * cell[0] + 18 + cell[0], 2 * cell[1], 3)  # three of four stills in two rows, one video
    video = sheet[18 + 2 * cell[0] + 18 :]
    assert has(video[:, : cell[1]], GREEN)
    assert has(video[:, : cell[1]], np.array((230, 160, 40)))  # the second track, which frame 4 alone has
    assert (video[:, cell[1] :] == 32).all()


def test_other_names_than_pictures_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.png or \.jpg"):
        write_picture(tmp_path / "sheet.txt", np.zeros((4, 4, 3), np.uint8))
    write_picture(tmp_path / "sheet.png", np.full((4, 5, 3), 7, np.uint8))
    assert (cv2.imread(str(tmp_path / "sheet.png")) == 7).all()
    with pytest.raises(ConfigError, match="draw fewer pairs"):
        write_picture(tmp_path / "sheet.jpg", np.zeros((70_000, 2, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
