"""The page's interface: clips that may be read and no others, uploads with limits, tracking over a WebSocket, metrics."""

import json

import numpy as np
import pytest


@pytest.fixture
def client(runner, clip_folder, tmp_path):
    from fastapi.testclient import TestClient

    from engine.serve.app import create_app
    from engine.serve.clips import ClipStore

    return TestClient(create_app(runner, ClipStore(clip_folder, tmp_path, max_bytes=200_000), allowed=("testserver",)))


def _track(client, request, stop_after=None):
    """All JSON messages and pictures of one run."""
    bodies, pictures = [], []
    with client.websocket_connect("/api/track") as socket:
        socket.send_text(request if isinstance(request, str) else json.dumps(request))
        while not bodies or bodies[-1]["type"] == "frame":
            bodies.append(json.loads(socket.receive_text()))
            if bodies[-1]["type"] == "frame":
                pictures.append(socket.receive_bytes())
                if len(pictures) == stop_after:
                    socket.send_text('{"stop": true}')
    return bodies, pictures


def test_page_and_info(client):
    page = client.get("/")
    assert "<canvas" in page.text
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    info = client.get("/api/info").json()
    assert info["clips"] == ["clip.mp4"]
    assert info["model"] == "tiny"
    assert info["cameras"] is False


def test_first_frame_is_a_picture_with_its_size(client):
    import cv2

    response = client.get("/api/clips/clip.mp4/first-frame")
    assert (response.headers["X-Frame-Width"], response.headers["X-Frame-Height"]) == ("320", "240")
    assert cv2.imdecode(np.frombuffer(response.content, np.uint8), 1).shape == (240, 320, 3)


@pytest.mark.parametrize(
    "clip", ["notes.txt", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "upload-0000000000000000.mp4", "camera-0", "clip.mp4%00"]
)
def test_nothing_else_can_be_read(client, clip):
    assert client.get(f"/api/clips/{clip}/first-frame").status_code == 404


def test_a_link_out_of_the_folder_is_not_served(runner, clip_folder, tmp_path):
    from engine.errors import SourceError
    from engine.serve.clips import ClipStore

    (tmp_path / "linked.mp4").symlink_to(clip_folder / "clip.mp4")
    store = ClipStore(tmp_path, tmp_path, 1000)
    assert store.names() == []
    with pytest.raises(SourceError, match="there is no clip"):
        store.path("linked.mp4")


def test_tracking_sends_every_frame(client):
    bodies, pictures = _track(client, {"clip": "clip.mp4", "boxes": [[100, 80, 40, 60]]})
    assert [body["index"] for body in bodies[:-1]] == list(range(12))
    assert bodies[-1] == {"type": "end", "reason": "end of the clip"}
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures)
    assert bodies[0]["targets"] == [{"id": 1, "box": [100, 80, 40, 60], "score": 1.0, "state": "TRACKING"}]
    assert bodies[5]["grid"] == 16
    (target,) = bodies[5]["targets"]
    assert len(target["kept"]) == 89
    assert target["region"][2] > 0
    metrics = client.get("/metrics").text
    assert "esat_frames_total 11.0" in metrics
    assert 'esat_frame_latency_ms_bucket{le="+Inf"} 11.0' in metrics


def _converse(client, request, commands):
    """All JSON messages of a run; commands: what is sent after a frame, by its number."""
    bodies = []
    with client.websocket_connect("/api/track") as socket:
        socket.send_text(json.dumps(request))
        while not bodies or bodies[-1]["type"] in ("frame", "note"):
            bodies.append(json.loads(socket.receive_text()))
            if bodies[-1]["type"] == "frame":
                socket.receive_bytes()
                for command in commands.get(bodies[-1]["index"], []):
                    socket.send_text(json.dumps(command))
    return bodies


def test_targets_are_added_corrected_and_removed_while_it_runs(client):
    commands = {
        1: [{"add": [200, 100, 40, 40], "index": 1}],
        3: [{"restart": 1, "box": [30, 30, 50, 50], "index": 3}, {"remove": 9}, {"add": [900, 9, 5, 5], "index": 3}],
        5: [{"remove": 2}],
    }
    bodies = _converse(client, {"clip": "clip.mp4", "boxes": [[100, 80, 40, 60]]}, commands)
    frames = [body for body in bodies if body["type"] == "frame"]
    assert [frame["index"] for frame in frames] == list(range(12))
    followed = [[target["id"] for target in frame["targets"]] for frame in frames]
    assert followed[0] == [1]
    assert followed[-1] == [1]
    assert [1, 2] in followed
    notes = [body["reason"] for body in bodies if body["type"] == "note"]
    assert len(notes) == 2
    assert notes[0] == "there is no target 9: targets are [1, 2]"
    assert "lies outside the frame of 320 x 240" in notes[1]
    centres = [frame["targets"][0]["region"][0] + frame["targets"][0]["region"][2] / 2 for frame in frames[1:]]
    assert any(abs(centre - 55) < 1 for centre in centres)  # searched around the new box


def test_a_paused_run_waits(client):
    import time

    with client.websocket_connect("/api/track") as socket:
        socket.send_text(json.dumps({"clip": "clip.mp4", "boxes": [[100, 80, 40, 60]]}))
        socket.receive_text()
        socket.receive_bytes()
        socket.send_text('{"pause": true}')
        time.sleep(1.0)  # longer than the clip
        before = client.get("/metrics").text
        time.sleep(0.3)
        assert client.get("/metrics").text == before
        assert "esat_frames_total 11.0" not in before
        socket.send_text('{"pause": false}')
        index = 0
        while (body := json.loads(socket.receive_text()))["type"] == "frame":
            socket.receive_bytes()
            index = body["index"]
        assert (index, body["reason"]) == (11, "end of the clip")


def test_what_is_no_command_ends_the_run(client):
    bodies = _converse(client, {"clip": "clip.mp4", "boxes": [[100, 80, 40, 60]]}, {0: [{"jump": 5}]})
    assert bodies[-1] == {"type": "end", "reason": "stopped"}


def test_stop_ends_the_run(client):
    bodies, _ = _track(client, {"clip": "clip.mp4", "boxes": [[100, 80, 40, 60]]}, stop_after=2)
    assert bodies[-1] == {"type": "end", "reason": "stopped"}
    assert len(bodies) < 13


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"clip": "clip.mp4", "boxes": [[500, 80, 40, 60]]}, "lies outside the frame of 320 x 240"),
        ({"clip": "clip.mp4", "boxes": [[1, 2]]}, "four finite numbers"),
        ({"clip": "../clip.mp4", "boxes": [[1, 2, 3, 4]]}, "there is no clip"),
        ({"boxes": [[1, 2, 3, 4]]}, "expected"),
        ({"clip": "clip.mp4", "boxes": []}, "expected 1 to 64 boxes, got 0"),
        ({"clip": "clip.mp4", "boxes": 5}, "expected"),
        ("not json", "expected"),
    ],
)
def test_bad_requests_get_one_clear_message(client, request_, reason):
    bodies, _ = _track(client, request_)
    assert bodies[-1]["type"] == "error"
    assert reason in bodies[-1]["reason"]


def test_another_sites_page_may_not_connect(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/track", headers={"origin": "http://evil.example"}):
        pass


def test_uploads_are_kept_under_new_names_and_within_the_limit(client, clip_folder, tmp_path):
    content = (clip_folder / "clip.mp4").read_bytes()
    clip = client.put("/api/clips/my clip.mp4", content=content).json()["clip"]
    assert (tmp_path / clip).read_bytes() == content
    assert client.get(f"/api/clips/{clip}/first-frame").status_code == 200
    assert client.get("/api/info").json()["clips"] == ["clip.mp4"]
    large = client.put("/api/clips/large.mp4", content=b"0" * 300_000)
    assert (large.status_code, large.json()["detail"]) == (413, "'large.mp4' is larger than the limit of 0.190735 MiB")
    assert client.put("/api/clips/run.sh", content=b"#!").status_code == 415
    broken = client.put("/api/clips/broken.mp4", content=b"no video").json()["clip"]
    assert client.get(f"/api/clips/{broken}/first-frame").status_code == 422
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([clip, broken])


@pytest.mark.parametrize(
    "path", ["/../notes.txt", "/static/../app.py", "/api/clips/../../notes.txt", "/api/clips/..%2fnotes.txt/first-frame"]
)
def test_paths_as_they_stand_lead_nowhere(runner, clip_folder, tmp_path, path):
    """Sent byte by byte: clients tidy such paths before they ask."""
    import socket
    from urllib.parse import urlsplit

    from engine.serve.clips import ClipStore
    from tests.engine.serve.browser import serving

    with (
        serving(runner, ClipStore(clip_folder, tmp_path, 1000)) as address,
        socket.create_connection(("127.0.0.1", urlsplit(address).port), timeout=10) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"no clip\n" not in answer
    assert b"import" not in answer


def test_an_upload_that_breaks_off_leaves_nothing(runner, clip_folder, tmp_path):
    import asyncio

    from engine.serve.clips import ClipStore

    async def broken():
        yield b"0" * 100
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        asyncio.run(ClipStore(clip_folder, tmp_path, 1000).store("a.mp4", broken()))
    assert list(tmp_path.iterdir()) == []
