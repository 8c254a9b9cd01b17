"""Network sources against local servers: whole files, live streams that break, change size, hang or never answer."""

from __future__ import annotations

import io
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EsatWarning, SourceError
from engine.video import NetworkStream, Reader, open_source
from tests.engine.video.clips import FASTSTART, collect, picture, pictures, write_clip
from tests.engine.video.servers import http_server, send_file, send_live


def live_bytes(count: int, width: int = 96, height: int = 64) -> bytes:
    """An MPEG-TS stream with a key frame every five pictures and no reordering."""
    buffer = write_clip(io.BytesIO(), pictures(count, width, height), container="mpegts", options={"g": "5", "bf": "0"})
    return bytes(buffer.getvalue())


def test_http_file_is_read_like_a_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures(20), options={"crf": "10"}, container_options=FASTSTART)
    with http_server(lambda request, _: send_file(request, path.read_bytes())) as address, open_source(f"{address}/a.mp4") as source:
        assert not source.live
        assert source.frame_count == 20
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert frames[19].timestamp * 25 == 19
    assert np.abs(frames[19].image.astype(int) - picture(19)).mean() < 6


def test_transport_stream_with_a_length_ends(tmp_path: Path) -> None:
    with http_server(lambda request, _: send_file(request, live_bytes(20), "video/mp2t")) as address:
        source = open_source(f"{address}/a.ts")
        assert not source.live
        assert sum(1 for _ in source) == 20


def test_live_stream_reconnects_and_may_come_back_in_another_size() -> None:
    parts = [live_bytes(20), live_bytes(15, 128, 80)]

    def serve(request, number: int) -> None:
        if number < 2:
            send_live(request, parts[number])
        else:
            request.send_error(404)

    with http_server(serve) as address:
        source = NetworkStream(f"{address}/live", reconnects=2, pause=0.01)
        assert source.live
        assert source.frame_count is None
        frames = []
        with (
            pytest.warns(EsatWarning, match=r"live: .* after frame (20|35), it is opened again") as told,
            pytest.raises(SourceError, match=r"lost after frame 35, 2 attempts to reconnect failed: .*404"),
        ):
            collect(source, frames)
        assert len(told) == 2
    assert [frame.image.shape for frame in frames] == [(64, 96, 3)] * 20 + [(80, 128, 3)] * 15
    assert [frame.index for frame in frames] == list(range(35))
    times = [frame.timestamp for frame in frames]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


def test_server_that_accepts_but_never_sends_a_frame_is_given_up() -> None:
    def serve(request, number: int) -> None:
        send_live(request, live_bytes(10) if number == 0 else b"")

    with http_server(serve) as address:
        source = NetworkStream(f"{address}/live", reconnects=3, pause=0.01)
        with pytest.raises(SourceError, match="lost after frame 10, 3 attempts"):
            list(source)


def test_stream_that_hangs_times_out() -> None:
    release = threading.Event()

    def serve(request, number: int) -> None:
        send_live(request, live_bytes(10), (lambda: release.wait(20)) if number == 0 else lambda: None)

    with http_server(serve) as address:
        source = NetworkStream(f"{address}/live", open_timeout=1.0, read_timeout=0.5, reconnects=0)
        with pytest.raises(SourceError, match=r"lost after frame \d+, 0 attempts"):
            list(source)
        release.set()


def test_reader_stops_a_live_stream_that_waits() -> None:
    release = threading.Event()
    with http_server(lambda request, _: send_live(request, live_bytes(30), lambda: release.wait(20))) as address:
        reader = Reader(NetworkStream(f"{address}/live", read_timeout=20, reconnects=0))
        assert reader.policy == "newest"
        assert next(iter(reader)).image.shape == (64, 96, 3)
        reader.close(patience=0.1)
        assert list(reader) == []
        release.set()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/a.mp4", "cannot open http://127.0.0.1:9/a.mp4 as a video"),
        ("rtsp://user:secret@127.0.0.1:9/live", "cannot open rtsp://127.0.0.1:9/live as a video"),
        ("tcp://127.0.0.1:9", "cannot open tcp://127.0.0.1:9"),
    ],
)
def test_nobody_there(url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(url)
    assert "secret" not in str(caught.value)


def test_missing_page_and_page_that_is_no_video() -> None:
    def serve(request, number: int) -> None:
        if request.path == "/missing":
            request.send_error(404)
        else:
            send_file(request, b"<html>no video</html>", "text/html")

    with http_server(serve) as address:
        for page in ("missing", "page"):
            with pytest.raises(SourceError, match=f"cannot open {address}/{page}"):
                open_source(f"{address}/{page}")


def test_server_that_never_answers() -> None:
    release = threading.Event()
    with http_server(lambda request, _: release.wait(20)) as address:
        with pytest.raises(SourceError, match="no answer in time"):
            NetworkStream(f"{address}/a.mp4", open_timeout=0.3)
        release.set()
