"""A still picture in tiles, as phones store photographs (HEIF, ISO/IEC 23008-12): HEVC tiles and a grid that puts them together."""

from __future__ import annotations

import io
import struct

import av
import numpy as np

from tests.engine.video.clips import write_clip


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def tiled_heic(image: np.ndarray, columns: int = 2, rows: int = 2) -> bytes:
    """`image` [H, W, 3] in columns x rows tiles of equal size."""
    height, width = image.shape[0] // rows, image.shape[1] // columns
    tiles, configuration = [], b""
    for row in range(rows):
        for column in range(columns):
            tile = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
            options = {"x265-params": "log-level=none"}
            clip = write_clip(io.BytesIO(), [np.ascontiguousarray(tile)], codec="libx265", container="matroska", options=options)
            clip.seek(0)
            with av.open(clip) as container:
                stream = container.streams.video[0]
                configuration = bytes(stream.codec_context.extradata)
                tiles.append(next(bytes(packet) for packet in container.demux(stream)))
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width * columns, height * rows)
    items = [*tiles, grid]
    count, grid_id = len(items), len(items)
    entries = b"".join(
        full(b"infe", 2, 0, struct.pack(">HH", number, 0), b"grid" if number == grid_id else b"hvc1", b"\0")
        for number in range(1, count + 1)
    )
    properties = box(
        b"ipco",
        box(b"hvcC", configuration),
        full(b"ispe", 0, 0, struct.pack(">II", width, height)),
        full(b"ispe", 0, 0, struct.pack(">II", width * columns, height * rows)),
    )
    links = b"".join(
        struct.pack(">HBB", number, 1, 3) if number == grid_id else struct.pack(">HBBB", number, 2, 0x81, 2)
        for number in range(1, count + 1)
    )

    def meta(start: int) -> bytes:
        places = b""
        for number, item in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, start, len(item))
            start += len(item)
        return full(
            b"meta",
            0,
            0,
            full(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, 0, struct.pack(">H", grid_id)),
            full(b"iloc", 0, 0, b"\x44\x00", struct.pack(">H", count), places),
            full(b"iinf", 0, 0, struct.pack(">H", count), entries),
            full(b"iref", 0, 0, box(b"dimg", struct.pack(f">HH{count - 1}H", grid_id, count - 1, *range(1, count)))),
            box(b"iprp", properties, full(b"ipma", 0, 0, struct.pack(">I", count), links)),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1", b"heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *items)
