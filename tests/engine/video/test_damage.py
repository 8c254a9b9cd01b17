"""Damaged files: what cannot be decoded is passed over, and the rest keeps its place; random damage gives frames or one clear error."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import IncompleteError, SourceError
from engine.video import Frame, VideoFile, open_source
from engine.video.completeness import is_cut_off
from tests.engine.video.clips import FASTSTART, collect, cut, pictures, write_clip, zero

CONTAINERS = {"mp4": FASTSTART, "matroska": {}, "avi": {}, "mpegts": {}}
FRAMES = 12


def read(path: Path) -> int:
    """The number of frames before the end or the error."""
    frames: list[Frame] = []
    message = str(path)
    try:
        with VideoFile(path) as source:
            collect(source, frames)
    except SourceError as error:
        message = str(error)
    assert str(path) in message
    assert all(frame.image.shape[2] == 3 and frame.image.dtype == np.uint8 for frame in frames)
    return len(frames)


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_and_shortened_files(tmp_path: Path, container: str) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    options = {"g": "6"} if codec == "libx264" else {}
    path = tmp_path / "clip.bin"
    write_clip(path, pictures(FRAMES), codec=codec, container=container, options=options, container_options=CONTAINERS[container])
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    assert read(path) == FRAMES
    assert not is_cut_off(path)
    for _ in range(12):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 30)):
            data[place] = random.integers(256)
        path.write_bytes(data)
        assert read(path) <= FRAMES + 1
        path.write_bytes(whole[: random.integers(1, len(whole))])
        assert read(path) <= FRAMES
        assert is_cut_off(path) in (True, False)


def test_bytes_that_were_never_a_video(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for start in (b"", b"\x00\x00\x00\x18ftypisom", b"RIFF\xff\xff\xff\xffAVI LIST", b"\x1a\x45\xdf\xa3\x9f", b"\x47" * 188):
        path = tmp_path / "noise.mp4"
        path.write_bytes(start + random.bytes(3000))
        is_cut_off(path)
        with pytest.raises(SourceError, match=r"noise\.mp4"):
            list(open_source(path))


RATE = 25
KINDS: dict[str, dict] = {  # forty frames each, a key frame every ten
    "a.mp4": {"options": {"g": "10", "bf": "2", "crf": "10", "sc_threshold": "0"}, "container_options": FASTSTART},
    "plain.mp4": {"options": {"g": "10", "bf": "0", "crf": "10", "sc_threshold": "0"}, "container_options": FASTSTART},
    "a.mkv": {"options": {"g": "10", "bf": "2", "crf": "10", "sc_threshold": "0"}},
    "a.avi": {"codec": "mpeg4", "options": {"g": "10"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "a.webm": {"codec": "libvpx", "options": {"g": "10", "auto-alt-ref": "1", "lag-in-frames": "8"}},
}


@pytest.fixture(scope="module", params=KINDS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / request.param, pictures(40, 160, 120), **KINDS[request.param])


def places(path: Path) -> tuple[list[int], VideoFile]:
    """The indices of the frames that came; every frame's time is that of its index."""
    source = VideoFile(path)
    with source:
        frames = list(source)
    indices = [frame.index for frame in frames]
    assert [frame.timestamp for frame in frames] == [Fraction(index, RATE) for index in indices]
    assert all(later > earlier for earlier, later in itertools.pairwise(indices))
    return indices, source


@pytest.mark.parametrize("numbers", [[], [17], [14, 15, 16], [5, 23]])
def test_packets_that_cannot_be_decoded_leave_gaps(clip: Path, numbers: list[int]) -> None:
    indices, source = places(zero(clip, numbers))
    assert len(indices) == 40 - len(numbers) == 40 - source.damaged
    assert indices[0] == 0
    assert indices[-1] == 39


def test_a_lost_key_frame_takes_those_that_need_it_along(clip: Path) -> None:
    with av.open(str(clip)) as container:
        keys = [number for number, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    indices, source = places(zero(clip, [keys[1]]))
    assert indices[-1] == 39
    assert 1 <= source.damaged == 40 - len(indices) <= 13


def test_a_lost_beginning_is_counted(clip: Path) -> None:
    indices, source = places(zero(clip, [0, 1]))
    assert indices[0] >= 2
    assert indices[-1] == 39
    assert source.damaged == 40 - len(indices)


def test_an_end_that_was_never_written_is_told_after_the_frames_before_it(clip: Path) -> None:
    """A file whose place on the disk was reserved when the power failed: as long as it should be, and empty from somewhere on."""
    frames: list[Frame] = []
    with (
        VideoFile(zero(clip, range(12, 40))) as source,
        pytest.raises(IncompleteError, match=r"damaged to its end after frame \d+") as caught,
    ):
        collect(source, frames)
    assert 8 <= len(frames) <= 12
    assert f"after frame {len(frames)}" in str(caught.value)
    assert len(frames) + source.damaged == 40


@pytest.mark.parametrize(
    "trailer", [b"\x12\x34some maker's own data" * 40, bytes(5000), b"\xff" * 5000, b"\x00\x01\x00\x00free" + bytes(90)]
)
def test_what_follows_the_last_box_is_no_matter(clip: Path, tmp_path: Path, trailer: bytes) -> None:
    (tmp_path / clip.name).write_bytes(clip.read_bytes() + trailer)
    assert places(tmp_path / clip.name)[0] == list(range(40))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 12])
def test_a_riff_size_that_is_wrong_is_no_matter(tmp_path: Path, size: int) -> None:
    data = bytearray(write_clip(tmp_path / "a.avi", pictures(20), codec="mpeg4").read_bytes())
    data[4:8] = size.to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(data)
    assert places(tmp_path / "a.avi")[0] == list(range(20))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, None])
def test_a_second_riff_chunk(tmp_path: Path, size: int | None) -> None:
    """OpenDML: AVI beyond 1 GB goes on in chunks of the kind AVIX; here an empty one."""
    path = write_clip(tmp_path / "a.avi", pictures(20), codec="mpeg4")
    body = b"AVIXLIST" + (4).to_bytes(4, "little") + b"movi"
    path.write_bytes(path.read_bytes() + b"RIFF" + (len(body) if size is None else size).to_bytes(4, "little") + body)
    assert places(path)[0] == list(range(20))


def test_a_cut_transport_stream(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", pictures(40, 160, 120), options={"g": "10", "crf": "10"})
    assert places(path)[0] == list(range(40))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 188 * 188 + 100])
    frames: list[Frame] = []
    with VideoFile(path) as source, pytest.raises(IncompleteError, match=r"cut off after frame \d+"):
        collect(source, frames)
    assert 10 < len(frames) < 30


def test_a_hole_in_a_transport_stream(tmp_path: Path) -> None:
    """Without the packets' beginnings the demuxer knows of no frames there, but of a hole; the time tells how many they were."""
    path = write_clip(tmp_path / "a.ts", pictures(40), options={"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: starts[15]] + data[starts[18] :])
    indices, source = places(path)
    assert indices == [*range(15), *range(18, 40)]
    assert source.damaged == 3


def test_a_recording_that_begins_between_key_frames_begins_at_0(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", pictures(40), options={"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[starts[5] :])
    indices, source = places(path)
    assert (indices[0], source.damaged) == (0, 0)
    assert 30 <= len(indices) <= 35


def test_a_cut_file_on_standard_input_is_told_too(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures(40, 160, 120), options={"crf": "1", "g": "10"}, container_options=FASTSTART)
    with VideoFile(io.BytesIO(cut(path).read_bytes()), "memory") as source, pytest.raises(IncompleteError, match=r"memory: .* of 40"):
        list(source)


def test_a_file_without_any_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures(8), container_options=FASTSTART)
    with VideoFile(zero(path, range(8))) as source, pytest.raises(SourceError, match="no frame could be decoded") as caught:
        list(source)
    assert not isinstance(caught.value, IncompleteError)
