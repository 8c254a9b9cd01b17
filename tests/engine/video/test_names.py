"""What sources are called in messages and files."""

from __future__ import annotations

import pytest

from engine.video.names import shown


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://admin:secret@10.0.0.5", "rtsp://10.0.0.5"),
        ("RTSP://admin:s@cret@10.0.0.5:554/live?a=1", "RTSP://10.0.0.5:554/live?a=1"),
        ("http://admin@[::1]:80/a@2x.mp4", "http://[::1]:80/a@2x.mp4"),
        ("http://host/a@2x.mp4?to=b@c", "http://host/a@2x.mp4?to=b@c"),
        ("in/me@home.mp4", "in/me@home.mp4"),
        ("caf\udce9/ä.mp4", "caf?/ä.mp4"),
    ],
)
def test_names_without_passwords_and_bytes_that_are_no_text(source: str, name: str) -> None:
    assert shown(source) == name
