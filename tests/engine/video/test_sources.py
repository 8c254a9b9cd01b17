"""What people type and paste to name a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.video import open_source
from engine.video.sources import local_path
from tests.engine.video.clips import pictures, write_clip

COLONS = "2024-05-01T13:19:57.mp4"


@pytest.mark.parametrize(
    "name", [COLONS, "http:clip.mp4", "concat:a|b.mp4", "a clip #1 (50%) ?.mp4", "%03d.mp4", "file:clip.mp4", "-clip.mp4"]
)
def test_any_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", pictures(3)).rename(tmp_path / name)
    for typed in (name, f"./{name}", tmp_path / name, Path(name)):
        with open_source(typed) as source:
            assert len(list(source)) == 3


def test_urls_of_files(tmp_path: Path) -> None:
    path = tmp_path / "My clip, 50% ä.mp4"
    write_clip(tmp_path / "a.mp4", pictures(3)).rename(path)
    for url in (
        path.as_uri(),
        path.as_uri().replace("file://", "file://localhost"),
        path.as_uri().replace("file://", "FILE:"),
        f"file:{path}",
    ):
        if "50% " in url:
            url = url.replace("%", "%25")
        with open_source(url) as source:
            assert len(list(source)) == 3
    assert local_path("file:///a%20b/c%23d.mp4") == Path("/a b/c#d.mp4")
    assert local_path("file:///C:/clips/a.mp4") == Path("C:/clips/a.mp4")
    assert local_path("rtsp://camera/1") is None
    with open_source(tmp_path.as_uri() + "/a%2Emp4".replace("a%2E", path.name.replace("%", "%25").removesuffix("mp4"))) as source:
        assert source.frame_count == 3


def test_a_folder_that_may_not_be_entered(locked: Path) -> None:
    for source in (locked / "a.mp4", locked / "0.png", locked):
        with pytest.raises(SourceError, match=f"cannot read (the folder )?{source}: Permission denied"):
            open_source(source)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("file:///none/clip.mp4", "no such file: /none/clip.mp4"),
        ("file://server/share/clip.mp4", "names a file of the machine 'server'"),
        ("ftp://host/a.mp4", "cannot read ftp:// URLs, known are .*file"),
        (r"C:\Users\me\clip.mp4", r"no such file: C:\\Users\\me\\clip.mp4 \(a path of Windows.*/mnt/c/Users/me/clip.mp4"),
        ("d:/clips/a.mp4", r"no such file: d:/clips/a.mp4 \(a path of Windows.*/mnt/d/clips/a.mp4"),
        ("file:///C:/clips/a.mp4", r"no such file: C:/clips/a.mp4 \(a path of Windows"),
        (r"\\server\share\clip.mp4", r"\(a path of Windows"),
        ("http://[::1/clip.mp4", r"^http://\[::1/clip.mp4 is no valid URL$"),
        ("http://admin:secret@exa℀mple.com/a.mp4", "^http://exa℀mple.com/a.mp4 is no valid URL$"),
        ("file:///tmp/a%00b.mp4", "no such file: /tmp/a"),
        ("rtsp://admin:secret@[fe80::1/live", r"rtsp://\[fe80::1/live is no valid URL"),
        ("ftp://admin:secret@host/a.mp4", "^ftp://host/a.mp4: cannot read"),
        ("file://admin:secret@server/a.mp4", "^file://server/a.mp4: names a file of the machine 'server'"),
    ],
)
def test_what_is_not_there(typed: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(SourceError, match=message):
        open_source(typed)
