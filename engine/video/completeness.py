"""Does a clip end before its end? FFmpeg reads what there is and stops without a word, so what the file says of its length is compared."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from engine.video.choice import stated_duration
from engine.video.decode import Decoding, average_rate

_MATROSKA = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_MP4_MEDIA = (b"mdat", b"moof", b"moov")  # what must be whole; anything may follow: cameras and phones append data of their own


def missing_end(container: Any, stream: Any, decoding: Decoding, path: Path | None, failure: str | None) -> str | None:
    """What ended a pass through a file early, in words that "after frame N" can follow; None: every frame has been read.

    Lengths in bytes are often wrong in files that play to their end (AVI that was streamed or grew beyond 4 GB, bytes behind the last box),
    so they count only where frames are missing. path: the file, if there is one; failure: the error that ended the pass, if one did.
    """
    if path is None and not decoding.packets and _is_mp4(container):
        return (
            "its index is at its end, and this source cannot go back: save it to a file, or `ffmpeg -i IN -c copy -movflags +faststart OUT`"
        )
    cut = (path is not None and path.is_file() and is_cut_off(path)) or (stream.frames and _is_mp4(container))
    if cut and not _all_read(container, stream, decoding):
        return "the file is cut off"
    if failure is not None:
        return f"damaged ({failure})"
    if decoding.lost_at_end >= average_rate(stream):  # a second: as after a power cut, when a file's end was reserved and never written
        return "damaged to its end"
    return None


def _all_read(container: Any, stream: Any, decoding: Decoding) -> bool:
    """Whether as many frames came as the container states, or up to the time that it states."""
    if stream.frames and decoding.packets >= stream.frames:
        return True
    duration = stated_duration(stream) if _is_mp4(container) or "matroska" in container.format.name else None  # others: FFmpeg's guess
    return bool(duration and decoding.end and decoding.end >= duration - Fraction(3, 2) / average_rate(stream))


def _is_mp4(container: Any) -> bool:
    return "mp4" in container.format.name.split(",")


def is_cut_off(path: Path) -> bool:
    """Whether the file's own structure promises more bytes than it has. False for formats that promise nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _mp4_end(file, size) > size
        if start[:4] == b"RIFF":
            return _riff_end(file, size) > size
        if start[:4] == _MATROSKA:
            return _matroska_end(file) > size
        for length, sync in ((188, 0), (192, 4)):  # MPEG-TS, and that of Blu-ray and AVCHD
            if start[sync : sync + 1] == b"G":
                rest = size % length
                file.seek(size - rest + sync)
                return rest > sync and file.read(1) == b"G"
    return False


def _mp4_end(file: IO[bytes], size: int) -> int:
    """End of the last top-level box that matters: 4 bytes size (1: 8 more bytes hold it, 0: up to the end), 4 bytes kind."""
    position = end = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end of the file; else no box
            return end
        position += length
        if header[4:8] in _MP4_MEDIA:
            end = position
    return end


def _riff_end(file: IO[bytes], size: int) -> int:
    """End of the last RIFF chunk; large AVI files have several. Sizes that were never filled in promise nothing."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            return position
        position += 8 + length + length % 2
    return position


def _matroska_end(file: IO[bytes]) -> int:
    """End of the segment: after its identifier comes a number of 1 to 8 bytes, whose first set bit tells how many; all ones: unknown."""
    file.seek(0)
    head = file.read(4096)
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return 0
    count = 9 - head[at].bit_length()
    ones = (1 << 7 * count) - 1
    length = int.from_bytes(head[at : at + count], "big") & ones
    return 0 if length == ones else at + count + length
