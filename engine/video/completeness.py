"""Is a video file whole? MP4, Matroska and AVI say in their headers how long they are; FFmpeg reads what there is and ends without a word."""

from __future__ import annotations

from pathlib import Path
from typing import IO

_MATROSKA = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def is_cut_off(path: Path) -> bool:
    """Whether the file's own headers promise more bytes than it has. False for formats that promise nothing, such as MPEG-TS."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _mp4_end(file, size) > size
        if start[:4] == b"RIFF":
            return _riff_end(file, size) > size
        if start[:4] == _MATROSKA:
            return _matroska_end(file) > size
    return False


def _mp4_end(file: IO[bytes], size: int) -> int:
    """End of the last top-level box: 4 bytes size (1: 8 more bytes hold it, 0: up to the end), 4 bytes kind."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end of the file; else no box
            return position
        position += length
    return position


def _riff_end(file: IO[bytes], size: int) -> int:
    """End of the last RIFF chunk; large AVI files have several."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF":
            return position
        length = int.from_bytes(header[4:8], "little")
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
