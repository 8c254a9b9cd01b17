"""`esat track`: outputs, every kind of bad input, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from engine.runners.cpu.network import unsupported
from engine.video import VideoFile
from engine.weights import load_weights
from tests.cli.run import esat
from tests.conftest import REPOSITORY
from tests.engine.video.clips import FASTSTART, cut, picture, pictures, write_clip, zero
from tests.engine.video.servers import http_server, send_live
from tests.require import require

BOX = "10,20,24,24"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_clip(tmp_path / "in" / "clip.mp4", pictures(8))


def frame_count(path: Path) -> int:
    return sum(1 for _ in VideoFile(path))


def test_all_outputs_of_one_run(clip: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    files = ["-o", out / "a.mp4", "--json", out / "a.json", "--jsonl", out / "a.jsonl", "--txt", out / "a.txt", "--mot", out / "mot.txt"]
    assert esat("track", clip, "--box", BOX, "--model", tiny, "--device", "cpu", "--dtype", "fp32", *files) == 0
    assert sorted(os.listdir(out)) == ["a.json", "a.jsonl", "a.mp4", "a.txt", "mot.txt"]
    content = json.loads((out / "a.json").read_text())
    assert (content["model"], content["device"], content["dtype"], content["interrupted"]) == ("tiny", "cpu", "fp32", False)
    assert content["loop"] == "default"
    assert [frame["index"] for frame in content["frames"]] == list(range(8))
    assert content["frames"][0]["box"] == [10, 20, 24, 24]
    assert all(set(frame) == {"index", "time", "box", "score", "state", "latency_ms"} for frame in content["frames"])
    assert set(content["fps"]) == {"network", "tracker", "pipeline"}
    boxes = np.loadtxt(out / "a.txt", delimiter=",")
    np.testing.assert_allclose(boxes, [frame["box"] for frame in content["frames"]], atol=2e-3)
    assert [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()] == content["frames"]
    assert frame_count(out / "a.mp4") == 8
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("network", "tracker", "pipeline", "a.mp4", "a.json", "a.txt"))


def test_a_slow_dtype_is_told_in_one_line(
    clip: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESAT_CPU", raising=False)
    require("cpu", unsupported(load_weights(tiny).config, "fp32"))
    for _ in range(2):
        assert (
            esat(
                "track", clip, "--box", BOX, "--model", tiny, "--dtype", "fp16", "--device", "cpu", "--max-frames", 2, "--jsonl", "-", "-q"
            )
            == 0
        )
    printed = capsys.readouterr()
    assert [line["index"] for line in map(json.loads, printed.out.splitlines())] == [0, 1, 0, 1]
    (line,) = (line for line in printed.err.splitlines() if "warning" in line)
    assert line.startswith("warning: dtype fp16 will be slow, since PyTorch computes it here: ")


def test_image_folder_max_frames_and_nothing_but_lines_on_standard_output(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index))
    assert esat("track", tmp_path, "--box", BOX, "--model", tiny, "--max-frames", 3, "--jsonl", "-", "--color", "#ff0000") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]


def test_odd_sizes_and_a_change_of_size(tiny: Path, tmp_path: Path) -> None:
    for index, size in enumerate([(75, 51), (75, 51), (40, 90)]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index, *size))
    assert esat("track", tmp_path, "--box", BOX, "--model", tiny, "-o", tmp_path / "out" / "a.mp4", "-q") == 0
    assert [frame.image.shape for frame in VideoFile(tmp_path / "out" / "a.mp4")] == [(52, 76, 3)] * 3


def test_boxes_and_annotations_follow_pictures_of_any_size(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index, size in enumerate([(96, 64), (320, 240)]):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index, *size))
    for options in ([], ["--reverse"]):
        boxes = ["--box", BOX + "@0", "--box", "200,150,50,50@1"]
        assert esat("track", folder, *boxes, *options, "--model", tiny, "--coco", out / "a.json", "-q") == 0
        images = json.loads((out / "a.json").read_text())["images"]
        assert [(image["width"], image["height"]) for image in images] == [(96, 64), (320, 240)]
    assert esat("track", folder, "--box", "200,150,50,50", "--model", tiny, "--json", out / "b.json") == 2
    assert "outside the frame of 96 x 64" in capsys.readouterr().err
    assert esat("track", folder, "--box", BOX, "--box", "400,10,9,9@1", "--model", tiny, "--json", out / "b.json", "-q") == 2
    assert "error: target 2, frame 1: box 400,10,9,9 lies outside the frame of 320 x 240" in capsys.readouterr().err
    assert os.listdir(out) == ["a.json"]


def with_clip(*arguments: object) -> Callable[[Path, Path], list[object]]:
    return lambda folder, clip: [clip, *arguments]


BAD_INPUTS: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "no box": (with_clip(), "--box X,Y,W,H or by --select"),
    "box and select": (with_clip("--box", BOX, "--select"), "not by both"),
    "box of words": (with_clip("--box", "a,b,c,d"), "four numbers X,Y,W,H"),
    "box of three": (with_clip("--box", "1,2,3"), "four numbers X,Y,W,H"),
    "box of five": (with_clip("--box", "1,2,3,4,5"), "four numbers X,Y,W,H"),
    "box not finite": (with_clip("--box", "nan,2,3,4"), "finite"),
    "box without area": (with_clip("--box", "10,10,0,5"), "positive width and height"),
    "box of negative size": (with_clip("--box", "10,10,5,-5"), "positive width and height"),
    "box outside": (with_clip("--box", "500,10,20,20"), "outside the frame of 96 x 64"),
    "box left of the frame": (with_clip("--box", "-30,10,20,20"), "outside the frame of 96 x 64"),
    "box far too large": (with_clip("--box", "0,0,9999,9999"), "96 x 64"),
    "missing file": (lambda folder, clip: [folder / "none.mp4", "--box", BOX], "no such file"),
    "empty folder": (lambda folder, clip: [folder / "empty", "--box", BOX], "no images in"),
    "empty file": (lambda folder, clip: [folder / "empty.mp4", "--box", BOX], "is empty"),
    "text named mp4": (lambda folder, clip: [folder / "text.mp4", "--box", BOX], "not a video"),
    "clip cut before its index": (lambda folder, clip: [cut(clip), "--box", BOX], "cut off or damaged"),
    "damaged first image": (lambda folder, clip: [folder / "damaged", "--box", BOX], "frame 0: "),
    "no camera": (lambda folder, clip: ["61", "--box", BOX], "no camera 61"),
    "nobody at the address": (lambda folder, clip: ["http://127.0.0.1:9/a.mp4", "--box", BOX], "cannot open http"),
    "unknown scheme": (lambda folder, clip: ["ftp://127.0.0.1/a.mp4", "--box", BOX], "ftp://"),
    "unknown model": (with_clip("--box", BOX, "--model", "esat-9"), "unknown model"),
    "missing weights": (with_clip("--box", BOX, "--model", "none.safetensors"), "none.safetensors"),
    "unknown device": (with_clip("--box", BOX, "--device", "tpu"), "device"),
    "unknown dtype": (with_clip("--box", BOX, "--dtype", "int3"), "dtype"),
    "unknown colour": (with_clip("--box", BOX, "--color", "pinkish"), "color must be"),
    "box at no place": (with_clip("--box", BOX + "@soon"), "a frame such as 48 or a time such as 2s"),
    "box and boxes": (with_clip("--box", BOX, "--boxes", "FOLDER/file"), "not by both: --box and --boxes"),
    "boxes missing": (with_clip("--boxes", "FOLDER/none.csv"), "cannot read boxes from"),
    "boxes empty": (with_clip("--boxes", "FOLDER/file"), "holds no boxes"),
    "box after the end": (with_clip("--box", BOX + "@100"), "none of the 1 boxes is for a frame that was tracked"),
    "second box outside": (with_clip("--box", BOX, "--box", "500,10,20,20@5"), "outside the frame of 96 x 64"),
    "start that is none": (with_clip("--box", BOX, "--start", "-1"), "--start must be a frame such as 48"),
    "start after the end": (with_clip("--box", BOX, "--start", "100"), "no frame between --start and --end"),
    "search factor of zero": (with_clip("--box", BOX, "--search-factor", "0"), "search_factor must be a positive number"),
    "format without a folder": (with_clip("--box", BOX, "--format", "json"), "give --output-dir DIR as well"),
    "two clips into one file": (lambda folder, clip: [clip, clip, "--box", BOX], "options for single files"),
    "unknown policy": (with_clip("--box", BOX, "--policy", "oldest"), "--policy"),
    "folder under a file": (with_clip("--box", BOX, "--txt", "FOLDER/file/a.txt"), "is not a folder"),
    "folder that nobody may write": (with_clip("--box", BOX, "--txt", "/proc/a.txt"), "cannot write /proc/a.txt"),
    "too long a name of a source": (lambda folder, clip: ["a" * 300 + ".mp4", "--box", BOX], "File name too long"),
    "too long a name of an output": (with_clip("--box", BOX, "--txt", "a" * 300), "File name too long"),
    "too long a name of weights": (with_clip("--box", BOX, "--model", "a" * 300), "unknown model"),
    "path of Windows": (lambda folder, clip: [r"C:\clips\a.mp4", "--box", BOX], "a path of Windows"),
    "output is the source by its URL": (lambda folder, clip: [clip.as_uri(), "--box", BOX, "--txt", clip], "is the source as well"),
    "output is the source": (lambda folder, clip: [clip, "--box", BOX, "--txt", clip], "is the source as well"),
    "two outputs in one file": (with_clip("--box", BOX, "--txt", "FOLDER/out/a.json"), "output as well"),
    "a table on standard output": (with_clip("--box", BOX, "--csv", "-"), "cannot write -: expected the name of a file"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_line_and_leaves_no_output(
    name: str, clip: Path, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "damaged").mkdir()
    for index in range(2):
        (tmp_path / "damaged" / f"{index}.png").write_bytes(encoded(picture(0)) if index else b"")
    make, message = BAD_INPUTS[name]
    arguments = [str(argument).replace("FOLDER", str(tmp_path)) for argument in make(tmp_path, clip)]
    if "--model" not in arguments:
        arguments += ["--model", str(tiny)]
    before = clip.read_bytes()
    assert esat("track", *arguments, "-o", tmp_path / "out" / "a.mp4", "--json", tmp_path / "out" / "a.json") == 2
    printed = capfd.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert "Traceback" not in printed.out + printed.err
    assert os.listdir(tmp_path / "out") == []
    assert clip.read_bytes() == before


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.mark.parametrize("option", ["--show", "--select"])
def test_windows_without_windows(
    option: str, clip: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = [] if option == "--select" else ["--box", BOX]
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   NONE\n")
    monkeypatch.setattr(cv2, "selectROIs", lambda *_, **__: pytest.fail("asked for a window"))
    assert esat("track", clip, *box, option, "--model", tiny) == 2
    assert "pip install opencv-python" in capsys.readouterr().err
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   GTK3\n")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert esat("track", clip, *box, option, "--model", tiny) == 2
    assert f"{option} needs a display" in capsys.readouterr().err


def test_a_lost_live_stream_keeps_the_frames_so_far(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.video import stream

    monkeypatch.setattr(stream.NetworkStream.__init__, "__defaults__", (5.0, 5.0, 1, 0.01))
    data = write_clip(io.BytesIO(), pictures(12), container="mpegts", options={"bf": "0"}).getvalue()
    with http_server(lambda request, number: send_live(request, data) if number == 0 else request.send_error(404)) as address:
        options = ["--model", tiny, "--policy", "every", "-o", tmp_path / "a.mp4", "--txt", tmp_path / "a.txt"]
        assert esat("track", f"{address}/live", "--box", BOX, *options) == 3
    assert "lost after frame 12" in capsys.readouterr().err
    assert frame_count(tmp_path / "a.mp4") == 12
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 12


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_a_clip_that_lost_its_end_keeps_the_frames_so_far(
    suffix: str, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A recorder's power failed. It used to be refused as bad input, without outputs: after an hour of tracking, all of it was gone."""
    kind = {"codec": "mjpeg", "pixels": "yuvj420p"} if suffix == "avi" else {"options": {"g": "5", "crf": "10", "bf": "0"}}
    whole = write_clip(tmp_path / f"a.{suffix}", pictures(20, 160, 120), container_options=FASTSTART, **kind)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * 0.7) // 188 * 188 + 50])
    out = tmp_path / "out"
    files = ["-o", out / "a.mp4", "--json", out / "a.json", "--txt", out / "a.txt", "-q"]
    assert esat("track", whole, "--box", BOX, "--model", tiny, "--device", "cpu", *files) == 3
    content = json.loads((out / "a.json").read_text())
    count = len(content["frames"])
    assert 5 < count < 20
    assert capfd.readouterr().err.strip().startswith(f"error: {whole}: the file is cut off after frame {count}")
    assert count == frame_count(out / "a.mp4") == len((out / "a.txt").read_text().splitlines())
    assert sorted(os.listdir(out)) == ["a.json", "a.mp4", "a.txt"]


def test_damaged_frames_are_passed_over_and_counted(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = zero(write_clip(tmp_path / "a.mp4", pictures(12), options={"bf": "0"}, container_options=FASTSTART), [5, 6])
    run = ["--box", BOX, "--model", tiny, "--device", "cpu", "--json", tmp_path / "a.json", "-o", tmp_path / "out.mp4"]
    assert esat("track", clip, *run) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert [frame["index"] for frame in content["frames"]] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert content["damaged_frames"] == 2
    assert [frame.timestamp * 25 for frame in VideoFile(tmp_path / "out.mp4")] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert "2 damaged" in capfd.readouterr().out


def test_16_bit_pictures_say_what_was_done(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index).astype(np.uint16) << 4)
    assert esat("track", tmp_path, "--box", BOX, "--model", tiny, "--device", "cpu") == 0
    assert "16-bit pictures: values 0 to 4095 are taken as 0 to 255" in capfd.readouterr().err


def interrupted(number: signal.Signals, source: object, tiny: Path, out: Path) -> int:
    """Track `source` in a process of its own, send it a signal after five frames, check the outputs, and give their number of frames."""
    files = ["-o", out / "a.mp4", "--json", out / "a.json", "--txt", out / "a.txt", "--jsonl", "-"]
    command = [
        sys.executable,
        "-m",
        "engine",
        "track",
        source,
        "--box",
        BOX,
        "--model",
        tiny,
        "--device",
        "cpu",
        "--policy",
        "every",
        *files,
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def heard() -> None:  # also where the tests were started by nohup, which ignores SIGHUP
        signal.signal(number, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), **pipes, env=environment, preexec_fn=heard) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert all(lines), process.communicate()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    count = 5 + len(rest.splitlines())
    content = json.loads((out / "a.json").read_text())
    assert content["interrupted"] is True
    assert [frame["index"] for frame in content["frames"]] == list(range(count))
    assert len((out / "a.txt").read_text().splitlines()) == count
    assert frame_count(out / "a.mp4") == count
    with av.open(str(out / "a.mp4")) as container:
        assert container.streams.video[0].frames == count
    assert sorted(os.listdir(out)) == ["a.json", "a.mp4", "a.txt"]
    return count


def test_interrupt_leaves_complete_files(tiny: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", pictures(600, 64, 48), options={"preset": "ultrafast"})
    assert 5 <= interrupted(signal.SIGINT, clip, tiny, tmp_path / "out") < 600


def test_termination_while_a_live_stream_hangs(tiny: Path, tmp_path: Path) -> None:
    data = write_clip(io.BytesIO(), pictures(60), container="mpegts", options={"bf": "0"}).getvalue()
    release = threading.Event()
    with http_server(lambda request, _: send_live(request, data, lambda: release.wait(60))) as address:
        assert 5 <= interrupted(signal.SIGTERM, f"{address}/live", tiny, tmp_path / "out") <= 60
        release.set()


def test_a_terminal_that_is_closed_leaves_complete_files(tiny: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", pictures(600, 64, 48), options={"preset": "ultrafast"})
    assert 5 <= interrupted(signal.SIGHUP, clip, tiny, tmp_path / "out") < 600


def test_a_name_is_shown_as_it_is(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esat("track", "a:car:[b].mp4", "--box", BOX, "--model", tiny) == 2
    assert "no such file: a:car:[b].mp4" in capsys.readouterr().err


def test_video_on_standard_input(tiny: Path, clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(clip.read_bytes()), isatty=lambda: False))
    assert esat("track", "-", "--box", BOX, "--model", tiny, "--jsonl", "-", "-q") == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    large = write_clip(io.BytesIO(), pictures(100, 320, 240), container="mp4", options={"crf": "1", "preset": "ultrafast"}).getvalue()
    pipe = SimpleNamespace(read=io.BytesIO(large).read)  # larger than what FFmpeg holds, with its index at the end
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe, isatty=lambda: False))
    assert esat("track", "-", "--box", BOX, "--model", tiny) == 2
    assert "its index is at its end, and this source cannot go back" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert esat("track", "-", "--box", BOX, "--model", tiny) == 2
    assert "standard input is a terminal" in capsys.readouterr().err


def test_help_needs_no_pytorch() -> None:
    program = (
        "import sys\nfrom engine.cli.app import main\n"
        "try: main(['track', '--help'])\nfinally: print('torch' in sys.modules, 'cv2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert done.stdout.splitlines()[-1] == "False False"


def test_real_sequence_gives_a_box_a_frame(shared: Path, tiny: Path, tmp_path: Path) -> None:
    sequence = shared / "data" / "eval_dev" / "otb_Crossing"
    box = (sequence / "groundtruth.txt").read_text().split()[0]
    files = ["-o", tmp_path / "a.mp4", "--txt", tmp_path / "a.txt"]
    assert esat("track", sequence / "img", "--box", box, "--model", tiny, "--max-frames", 30, "-q", *files) == 0
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 30 == frame_count(tmp_path / "a.mp4")
