"""Each benchmark's format, read from a small tree of it, with what goes wrong in real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.datasets.check import check
from engine.datasets.layouts import open_dataset
from engine.errors import ConfigError, DatasetError, EsatError, EsatWarning, SourceError
from tests.engine.evaluation import trees


def only(dataset):
    assert dataset.broken == ()
    (sequence,) = dataset.sequences
    return sequence


def reason(dataset, name):
    return next(entry.reason for entry in dataset.broken if entry.name == name)


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
@pytest.mark.parametrize("truth", ["groundtruth.txt", "groundtruth_rect.txt"])
def test_otb(tmp_path, separator, truth):
    trees.otb(tmp_path, separator=separator, truth=truth)
    for root in (tmp_path, tmp_path / "Square"):  # a data set, and a single sequence
        dataset = open_dataset(root)
        assert dataset.layout == "otb"
        sequence = only(dataset)
        assert (sequence.name, sequence.frame_count, sequence.scored) == ("Square", 5, True)
        assert np.array_equal(sequence.boxes, trees.moving_boxes(5))
        assert [frame.shape for frame in sequence.frames()] == [(trees.HEIGHT, trees.WIDTH, 3)] * 5
        assert sequence.image_size() == (trees.WIDTH, trees.HEIGHT)


def test_otb_with_two_targets_and_spare_images(tmp_path):
    folder = trees.otb(tmp_path, "Jogging")
    (folder / "groundtruth_rect.txt").rename(folder / "groundtruth_rect.1.txt")
    trees.write_boxes(folder / "groundtruth_rect.2.txt", trees.moving_boxes(3))
    first, second = open_dataset(tmp_path).sequences
    assert (first.name, first.frame_count) == ("Jogging_1", 5)
    assert (second.name, second.frame_count) == ("Jogging_2", 3)
    assert "last 2 images are left out" in second.warnings[0]


def test_lasot(tmp_path):
    trees.lasot(tmp_path, "airplane-1", occluded=(2,), outside=(3, 4))
    trees.lasot(tmp_path, "zebra-10", frames=4)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "lasot"
    assert [sequence.name for sequence in dataset.sequences] == ["airplane-1", "zebra-10"]
    assert dataset.sequences[0].absent.tolist() == [False, False, True, True, True, False]
    assert open_dataset(tmp_path, "lasot_ext").layout == "lasot"
    assert only(open_dataset(tmp_path / "airplane")).name == "airplane-1"
    (tmp_path / "testing_set.txt").write_text("zebra-10\nzebra-11\n")
    chosen = open_dataset(tmp_path)
    assert [sequence.name for sequence in chosen.sequences] == ["zebra-10"]
    assert "no such folder" in reason(chosen, "zebra-11")


def test_got10k(tmp_path):
    trees.got10k(tmp_path, "val", 1, cover=(8, 5, 0, 1, 8))
    trees.got10k(tmp_path, "test", 2)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "got10k"
    sequence = only(dataset)
    assert sequence.name == "GOT-10k_Val_000001"
    assert sequence.covered.tolist() == [True, True, False, True, True]
    test = only(open_dataset(tmp_path / "test"))
    assert (test.frame_count, len(test.boxes), test.scored) == (5, 1, False)
    (tmp_path / "val" / sequence.name / "cover.label").unlink()
    assert only(open_dataset(tmp_path)).covered.tolist() == [True, True, False, True, True]
    (tmp_path / "test" / "list.txt").write_text("GOT-10k_Test_000002\n../../elsewhere\n")
    with pytest.raises(DatasetError, match="named like a file"):
        open_dataset(tmp_path / "test")


def test_trackingnet(tmp_path):
    trees.trackingnet(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "trackingnet"
    sequence = only(dataset)
    assert [path.name for path in sequence.images] == [f"{index}.jpg" for index in range(12)]  # not 0, 1, 10, 11, 2
    assert not sequence.scored
    other = tmp_path / "other"
    trees.trackingnet(other, "def_1", part="TRAIN_0")
    assert only(open_dataset(other)).scored
    assert only(open_dataset(other / "TRAIN_0")).name == "def_1"


def test_tnl2k(tmp_path):
    trees.tnl2k(tmp_path)
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, only(dataset).frame_count) == ("tnl2k", 5)


def test_own_videos(tmp_path):
    trees.video(tmp_path)
    trees.video(tmp_path, "start", boxes=trees.moving_boxes(1))
    trees.video(tmp_path, "short", boxes=trees.moving_boxes(8))
    (tmp_path / "alone.mp4").write_bytes(b"no truth beside it")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "video"
    clip, short, start = sorted(dataset.sequences, key=lambda sequence: sequence.name)
    assert (clip.frame_count, clip.scored, len(list(clip.frames()))) == (6, True, 6)
    assert (start.frame_count, start.scored, len(list(start.frames()))) == (None, False, 6)
    with pytest.raises(SourceError, match="ends after 6 frames, its ground truth has 8"):
        list(short.frames())
    assert "alone.txt" in reason(dataset, "alone")


@pytest.mark.parametrize("layout", ["lasot", "got10k", "tnl2k", "otb", "trackingnet"])
def test_missing_images_break_a_sequence_only(tmp_path, layout):
    makers = {"lasot": ["cat-1", "cat-2"], "tnl2k": ["a", "b"], "otb": ["a", "b"], "trackingnet": ["a", "b"], "got10k": [1, 2]}
    for key in makers[layout]:
        kind = {"number": key} if layout == "got10k" else {"name": key}
        folder = getattr(trees, layout)(tmp_path, **kind, **({"part": "TRAIN_0"} if layout == "trackingnet" else {}))
    next(iter(sorted(folder.rglob("*.[jp][pn]g")))).unlink()
    dataset = open_dataset(tmp_path, layout)
    assert [len(dataset.sequences), len(dataset.broken)] == [1, 1]
    assert "images are missing" in dataset.broken[0].reason


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("groundtruth.txt", "1,2,3,4\n1,2,3\n", "line 2: expected four"),
        ("groundtruth.txt", "1,2,3,4\nhere,2,3,4\n", "line 2: expected x,y,w,h"),
        ("groundtruth.txt", "1,2,inf,4\n", "four finite numbers"),
        ("groundtruth.txt", "", "holds no boxes"),
        ("groundtruth.txt", "0,0,0,0\n" * 6, "first box must"),
        ("groundtruth.txt", "nan,nan,nan,nan\n" * 6, "first box must"),
        ("groundtruth.txt", "1,2,3,4\n" * 4, "6 labels in full_occlusion.txt for 4 boxes"),
        ("groundtruth.txt", b"\xff\xfe\x00\x80", "not a text file"),
        ("groundtruth.txt", None, "No such file"),
        ("full_occlusion.txt", "0,1", "2 labels in full_occlusion.txt for 6 boxes"),
        ("full_occlusion.txt", "0,1,x", "expected numbers"),
        ("out_of_view.txt", None, "No such file"),
    ],
)
def test_damaged_labels_name_the_place(tmp_path, file, content, words):
    folder = trees.lasot(tmp_path)
    trees.lasot(tmp_path, "airplane-2")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = open_dataset(tmp_path, "lasot")
    assert [sequence.name for sequence in dataset.sequences] == ["airplane-2"]
    assert words in reason(dataset, "airplane-1")


def test_lists_with_a_byte_order_mark_and_names_with_spaces(tmp_path):
    for name in ("red car-1", "zebra-2"):
        trees.lasot(tmp_path / "lasot", name)
    (tmp_path / "lasot" / "testing_set.txt").write_bytes(b"\xef\xbb\xbfred car-1\r\n")
    assert only(open_dataset(tmp_path / "lasot")).name == "red car-1"
    assert only(open_dataset(tmp_path / "lasot", "lasot", training=True)).name == "zebra-2"
    folder = trees.got10k(tmp_path / "got10k", "val", 1)
    folder.rename(folder.with_name("my clip"))
    (tmp_path / "got10k" / "val" / "list.txt").write_bytes(b"\xef\xbb\xbfmy clip\n")
    assert only(open_dataset(tmp_path / "got10k")).name == "my clip"


def test_lasot_with_one_image_more_than_boxes_is_cut(tmp_path):
    folder = trees.lasot(tmp_path, occluded=(2,))
    trees.write_boxes(folder / "groundtruth.txt", trees.moving_boxes(5))
    sequence = only(open_dataset(tmp_path))
    assert (sequence.frame_count, sequence.absent.tolist()) == (5, [False, False, True, False, False])
    assert "last 1 images are left out" in sequence.warnings[0]
    trees.write_boxes(folder / "groundtruth.txt", trees.moving_boxes(4))
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        (folder / name).write_text("0,0,0,0")
    assert "4 boxes for 6 images" in reason(open_dataset(tmp_path), "airplane-1")


@pytest.mark.parametrize(
    ("name", "numbers", "boxes", "first", "last"),
    [
        ("David", range(1, 771), 471, 300, 770),
        ("BlurCar3", range(3, 360), 357, 3, 359),  # as OTB's archive is
        ("BlurCar3", range(1, 365), 357, 3, 359),
        ("Football1", range(1, 80), 74, 1, 74),
        ("Tiger1", range(1, 355), 354, 6, 354),
        ("Tiger2", range(1, 366), 365, 1, 365),
        ("David", range(1, 771), 770, 1, 770),  # a copy with a box for every image
    ],
)
def test_otb_sequences_whose_boxes_belong_to_a_part_of_the_images(tmp_path, name, numbers, boxes, first, last):
    (tmp_path / name / "img").mkdir(parents=True)
    for number in numbers:
        (tmp_path / name / "img" / f"{number:04d}.jpg").touch()
    truth = np.array([[number, 1, 10, 10] for number in range(boxes)])
    trees.write_boxes(tmp_path / name / "groundtruth_rect.txt", truth)
    sequence = only(open_dataset(tmp_path))
    assert [sequence.images[0].stem, sequence.images[-1].stem] == [f"{first:04d}", f"{last:04d}"]
    assert sequence.scored
    assert sequence.boxes[0, 0] == boxes - sequence.frame_count
    assert any("begins with frame 6" in text for text in sequence.warnings) == (name == "Tiger1")


def test_vot_folders_and_polygons_that_are_said_once(tmp_path):
    for name in ("bag", "ball"):
        folder = trees.otb(tmp_path, name, truth="groundtruth.txt")
        (folder / "img").rename(folder / "color")
        x, y, w, h = trees.moving_boxes(5).T
        trees.write_boxes(folder / "groundtruth.txt", np.array([x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]).T)
    trees.otb(tmp_path, "plain")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "otb"
    assert [sequence.polygons for sequence in dataset.sequences] == [True, True, False]
    assert np.array_equal(dataset.sequences[0].boxes, trees.moving_boxes(5))
    (note,) = dataset.notes
    assert "of 2 sequences is polygons" in note


def test_uav123(tmp_path):
    images = tmp_path / "data_seq" / "UAV123"
    for folder, count in (("bike1", 5), ("car16", 420), ("car1_s", 4)):
        (images / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            (images / folder / f"{number:06d}.jpg").touch()
    known = {"bike1": 5, "car16_1": 415, "car16_2": 6, "car16_3": 2, "car1_s": 4}
    for name, count in known.items():
        trees.write_boxes(tmp_path / "anno" / "UAV123" / f"{name}.txt", trees.moving_boxes(count))
    trees.write_boxes(tmp_path / "anno" / "UAV20L" / "car16.txt", trees.moving_boxes(420))
    (tmp_path / "anno" / "UAV123" / "bike1.txt").write_text("1,2,3,4\n" + "NaN,NaN,NaN,NaN\n" * 3 + "1,2,3,4\n")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "uav123"
    parts = {sequence.name: [path.stem for path in (sequence.images[0], sequence.images[-1])] for sequence in dataset.sequences}
    assert parts == {
        "bike1": ["000001", "000005"],
        "car1_s": ["000001", "000004"],
        "car16_1": ["000001", "000415"],
        "car16_2": ["000415", "000420"],
    }
    assert "no part of another that is known" in reason(dataset, "car16_3")
    assert np.isnan(dataset.sequences[0].boxes[1:4]).all()
    assert only(open_dataset(tmp_path, "uav20l")).frame_count == 420


@pytest.mark.parametrize(("rate", "lines"), [("30", 41), ("240", 5), ("240", 6)])
def test_nfs_as_it_is_published(tmp_path, rate, lines):
    trees.write_images(tmp_path / "dog 1" / rate / "dog 1", trees.moving_boxes(5), "{:05d}.jpg")
    every = trees.moving_boxes(lines, step=2.0 / 8 if rate == "30" else 2.0)
    text = "".join(f'0 {x} {y} {x + w} {y + h} {index} 0 0 1 "a dog"\n' for index, (x, y, w, h) in enumerate(every))
    (tmp_path / "dog 1" / rate / "dog 1.txt").write_text(text)
    dataset = open_dataset(tmp_path)
    sequence = only(dataset)
    assert (dataset.layout, sequence.name, sequence.scored) == ("nfs", "dog 1", True)
    assert np.allclose(sequence.boxes, trees.moving_boxes(5))
    (tmp_path / "dog 1" / rate / "dog 1.txt").write_text("0 1 2 3\n")
    assert "track x1 y1 x2 y2" in reason(open_dataset(tmp_path, "nfs"), "dog 1")


def test_nfs_as_pytracking_keeps_it(tmp_path):
    trees.write_images(tmp_path / "sequences" / "dog_1", trees.moving_boxes(5), "{:05d}.jpg")
    trees.write_boxes(tmp_path / "anno" / "nfs_dog_1.txt", trees.moving_boxes(5), "\t")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, only(dataset).name, only(dataset).scored) == ("nfs", "nfs_dog_1", True)


def test_training_takes_the_part_to_learn_from(tmp_path):
    for part, number in (("train", 1), ("val", 2), ("test", 3)):
        trees.got10k(tmp_path / "g", part, number)
    assert only(open_dataset(tmp_path / "g", "got10k")).name == "GOT-10k_Val_000002"
    assert only(open_dataset(tmp_path / "g", "got10k", training=True)).name == "GOT-10k_Train_000001"
    for part, name in (("TEST", "a"), ("TRAIN_3", "b")):
        trees.trackingnet(tmp_path / "t", name, part=part)
    assert only(open_dataset(tmp_path / "t", "trackingnet")).name == "a"
    assert only(open_dataset(tmp_path / "t", "trackingnet", training=True)).name == "b"


def test_training_does_not_need_a_box_in_the_first_frame(tmp_path):
    boxes = trees.moving_boxes(5)
    boxes[0] = np.nan
    trees.write_boxes(trees.otb(tmp_path) / "groundtruth_rect.txt", boxes)
    assert only(open_dataset(tmp_path, training=True)).frame_count == 5
    assert "first box must" in reason(open_dataset(tmp_path), "Square")


def test_the_doctor_knows_corners(tmp_path):
    boxes = trees.moving_boxes(5) + np.array([30, 20, 0, 0])
    boxes[:, 2:] += boxes[:, :2]
    trees.write_boxes(trees.otb(tmp_path) / "groundtruth_rect.txt", boxes)
    assert "its boxes look like corners x1,y1,x2,y2: expected x,y,w,h" in [finding.message for finding in check(tmp_path).findings]


@pytest.mark.parametrize("layout", ["trackingnet", "uav123", "nfs", "video"])
def test_hidden_files_of_other_systems_are_passed_over(tmp_path, layout):
    if layout == "video":
        trees.video(tmp_path, "a")
        place = tmp_path
    elif layout == "trackingnet":
        trees.trackingnet(tmp_path, "a")
        place = tmp_path / "TEST" / "anno"
    else:
        images, place = {
            "uav123": (tmp_path / "data_seq" / "UAV123" / "a", tmp_path / "anno" / "UAV123"),
            "nfs": (tmp_path / "sequences" / "a", tmp_path / "anno"),
        }[layout]
        trees.write_images(images, trees.moving_boxes(5))
        trees.write_boxes(place / "a.txt", trees.moving_boxes(5))
    for name in ("._a.txt", "._a.mp4", "Thumbs.db"):
        (place / name).write_bytes(b"\x00\x05\x16\x07")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, only(dataset).name) == (layout, "a")


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="follows none of the layouts"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no sequence of the layout 'otb'"):
        open_dataset(tmp_path, "otb")
    with pytest.raises(ConfigError, match="expected auto, trackingnet"):
        open_dataset(tmp_path, "kitti")


def test_the_doctor_finds_nothing_in_a_sound_tree(tmp_path):
    trees.got10k(tmp_path, "test", 2)
    report = check(tmp_path)
    assert report.ok
    assert (report.layout, report.sequences, report.frames, report.unscored, report.findings) == ("got10k", 1, 5, 1, ())


def test_the_doctor_finds_what_is_wrong(tmp_path):
    cut = trees.otb(tmp_path, "cut") / "img" / "0003.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    empty = trees.otb(tmp_path, "empty") / "img" / "0001.jpg"
    empty.write_bytes(b"")
    gap = trees.otb(tmp_path, "gap")
    (gap / "img" / "0005.jpg").rename(gap / "img" / "0009.jpg")
    boxes = trees.moving_boxes(5)
    boxes[1] = 0
    boxes[2, 0] = 500
    boxes[3, 2] = 300
    trees.write_boxes(trees.otb(tmp_path, "odd") / "groundtruth_rect.txt", boxes)
    trees.write_boxes(trees.otb(tmp_path, "outside") / "groundtruth_rect.txt", boxes[[2, 0, 0, 0, 0]])
    trees.otb(tmp_path, "sound")
    (trees.otb(tmp_path, "nothing") / "groundtruth_rect.txt").write_text("")
    report = check(tmp_path)
    found = {(finding.level, finding.sequence): finding.message for finding in report.findings}
    assert not report.ok
    assert "1 damaged images, the first is" in found["error", "cut"]
    assert "0003.jpg" in found["error", "cut"]
    assert "not an image" in found["error", "empty"]
    assert "jump after 0004.jpg" in found["warning", "gap"]
    assert "lies outside" in found["error", "outside"]
    assert "holds no boxes" in found["error", "nothing"]
    odd = [finding.message for finding in report.findings if finding.sequence == "odd"]
    assert odd == ["1 frames without a valid box", "1 boxes wholly outside the image", "1 boxes larger than the image"]
    assert not any(finding.sequence == "sound" for finding in report.findings)


def test_a_damaged_image_names_its_frame(tmp_path):
    image = trees.otb(tmp_path) / "img" / "0003.jpg"
    image.write_text("not an image")
    with pytest.raises(EsatError, match=r"frame 3: .*0003.jpg"):
        list(only(open_dataset(tmp_path)).frames())


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("layout", ["auto", "otb"])
def test_a_folder_that_cannot_be_read_is_passed_over(layout):
    trees.otb(Path("data"))
    Path("data", "lost+found").mkdir(mode=0)
    with pytest.warns(EsatWarning, match=r"data/lost\+found is left out: Permission denied"):
        assert only(open_dataset("data", layout)).name == "Square"


def test_what_cannot_be_read_is_named(locked):
    for root in (locked, locked / "data", "a" * 300):
        with pytest.raises(DatasetError, match=f"(cannot read|no such folder:) {root}"):
            open_dataset(root)
    folders = [trees.got10k(Path("data"), "val", number) for number in (1, 2)]
    Path("data", "val", "list.txt").write_text("\n".join(folder.name for folder in folders))
    folders[1].chmod(0)
    dataset = open_dataset("data")
    assert [sequence.name for sequence in dataset.sequences] == [folders[0].name]
    assert f"cannot read {folders[1]}" in reason(dataset, folders[1].name)
