"""`esat sheet`: pictures of pairs and data, and bad input."""

import cv2

from tests.cli.test_train import configuration, run
from tests.engine.training.data import write_folder


def test_pairs_and_data_are_drawn(tmp_path):
    data = str(write_folder(tmp_path / "data"))
    arguments = ["sheet", configuration(tmp_path), str(tmp_path / "a.png"), "--data", data, "--pairs", "5"]
    assert run([*arguments, "--data-sheet", str(tmp_path / "d.jpg")]) == 0
    first = cv2.imread(str(tmp_path / "a.png"))
    assert first.shape[0] == 2 * (128 + 4)
    assert cv2.imread(str(tmp_path / "d.jpg")).std() > 0
    assert run([*arguments, "--page", "1"]) == 0
    assert (cv2.imread(str(tmp_path / "a.png")) != first).any()


def test_bad_input_is_exit_code_2_and_nothing_is_written(tmp_path, capsys):
    data = str(write_folder(tmp_path / "data"))
    assert run(["sheet", configuration(tmp_path), str(tmp_path / "a.gif"), "--data", data]) == 2
    assert run(["sheet", configuration(tmp_path), str(tmp_path / "a.png"), "--data", data, "--only", "video"]) == 2
    assert "--only must be of coco, got video" in capsys.readouterr().err
    assert run(["sheet", configuration(tmp_path), str(tmp_path / "a.png"), "--data", str(tmp_path / "none")]) == 2
    assert list(tmp_path.glob("*.png")) == []
