"""Public data sets' layouts, as small trees."""

import json

import cv2
import numpy as np
import pytest

from engine.errors import ConfigError, DatasetError
from engine.training.layouts import read_layouts
from engine.training.pairs import PairMaker
from engine.training.settings import AugmentConfig
from tests.engine.training.data import TINY, picture

BOXES = np.array([[60 + 10 * t, 80, 50, 40] for t in range(5)], float)


def write_frames(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, box in zip(names, BOXES, strict=True):
        cv2.imwrite(str(folder / name), picture(box))


def write_boxes(path, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(separator.join(str(value) for value in box) for box in BOXES) + "\n")


def make_lasot(root):
    write_frames(root / "cat" / "cat-1" / "img", [f"{t + 1:08d}.jpg" for t in range(5)])
    write_boxes(root / "cat" / "cat-1" / "groundtruth.txt")
    (root / "cat" / "cat-1" / "full_occlusion.txt").write_text("0,1,0,0,0\n")
    (root / "cat" / "cat-1" / "out_of_view.txt").write_text("0,0,0,1,0\n")
    return [0, 2, 4]


def make_got10k(root):
    write_frames(root / "GOT-10k_Train_000001", [f"{t + 1:08d}.jpg" for t in range(5)])
    write_boxes(root / "GOT-10k_Train_000001" / "groundtruth.txt")
    (root / "GOT-10k_Train_000001" / "absence.label").write_text("0\n0\n1\n0\n0\n")
    return [0, 1, 3, 4]


def make_trackingnet(root):
    write_frames(root / "TRAIN_0" / "frames" / "abc", ["0.jpg", "2.jpg", "9.jpg", "10.jpg", "11.jpg"])
    write_boxes(root / "TRAIN_0" / "anno" / "abc.txt")
    return [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "make"), [("lasot", make_lasot), ("got10k", make_got10k), ("trackingnet", make_trackingnet)])
def test_clips(tmp_path, name, make):
    valid = make(tmp_path)
    pool = read_layouts({name: tmp_path})
    (clip,) = pool.clips[name]
    assert clip.valid.tolist() == valid
    assert np.array_equal(clip.boxes[valid], BOXES[valid])
    for index in valid:  # each frame belongs to its box
        x, y, w, h = BOXES[index].astype(int)
        assert clip.frames[index][y + 2 : y + h - 2, x + 2 : x + w - 2, 2].min() > 150
    assert len(clip.frames[1:3]) == 2
    maker = PairMaker(pool, TINY, AugmentConfig(groups={name: 1.0}), seed=0)
    assert maker.batch(3, 1).search.shape == (1, 128, 128, 3)


def test_coco(tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}, {"id": 9, "file_name": "empty.jpg"}]
    for image, box in zip(images, BOXES[:3], strict=True):
        cv2.imwrite(str(tmp_path / "val2017" / image["file_name"]), picture(box))

    def note(image, box, **more):
        return {"image_id": image, "bbox": list(box), "category_id": 18, **more}

    notes = [note(7, BOXES[0]), note(7, [0, 0, 3, 3]), note(8, BOXES[1]), note(8, BOXES[2], iscrowd=1)]
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps({"images": images, "annotations": notes}))
    pool = read_layouts({"coco": tmp_path})
    assert pool.describe() == {"coco": 2}
    assert np.array_equal(pool.stills["coco"][1].boxes, BOXES[1:2])
    assert pool.stills["coco"][1].classes.tolist() == [18]
    assert pool.stills["coco"][1].image.shape == (240, 320, 3)


def test_wrong_names_empty_folders_and_damaged_pictures(tmp_path):
    with pytest.raises(ConfigError, match="expected one of coco, trackingnet, got10k"):
        read_layouts({"imagenet": tmp_path})
    with pytest.raises(DatasetError, match="no sequence of the layout 'got10k'"):
        read_layouts({"got10k": tmp_path})
    make_got10k(tmp_path)
    (tmp_path / "GOT-10k_Train_000001" / "00000002.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"cannot read the picture .*00000002\.jpg"):
        read_layouts({"got10k": tmp_path}).clips["got10k"][0].frames[1]


def test_sequences_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    make_lasot(tmp_path)
    folder = tmp_path / "cat" / "cat-2"
    write_frames(folder / "img", [f"{t + 1:08d}.jpg" for t in range(5)])
    for stray in ("._00000001.jpg", "Thumbs.db"):
        (tmp_path / "cat" / "cat-1" / "img" / stray).write_bytes(b"no picture")
    (folder / "groundtruth.txt").write_text("1,2,3,4,5\n" * 5)
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        (folder / name).write_text("0,0,0,0,0\n")
    pool = read_layouts({"lasot": tmp_path})
    assert [len(clip.frames) for clip in pool.clips["lasot"]] == [5]
    (note,) = pool.notes
    assert "lasot: 1 of 2 sequences left out, the first is cat-2:" in note
    assert "line 1" in note
