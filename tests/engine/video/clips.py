"""Small real clips, encoded when a test needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from engine.video import Frame, Source


def picture(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A textured background in dull colours with an orange square that moves to the right; uint8 BGR [H, W, 3]."""
    random = np.random.default_rng(0)
    image = cv2.resize(random.integers(60, 120, (8, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    left = 10 + 2 * index % max(1, width - 40)
    image[20:44, left : left + 24] = (40, 140, 240)
    return image


def pictures(count: int, width: int = 96, height: int = 64) -> Iterator[np.ndarray]:
    return (picture(index, width, height) for index in range(count))


def write_clip(
    path: Path | Any,
    images: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: Fraction = Fraction(25),
    time_base: Fraction | None = None,
    pts: Callable[[int], int] = lambda index: index,
    rotation: int = 0,
    pixel_aspect: tuple[int, int] = (1, 1),
    container: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Any:
    """Encode `images`; picture n has the time pts(n) * time_base (default: n / rate). Returns `path`."""
    place = str(path) if isinstance(path, Path) else path
    with av.open(place, "w", format=container, container_options=container_options or {}) as output:
        stream: Any = None
        for index, image in enumerate(images):
            if stream is None:
                stream = output.add_stream(codec, rate=rate, options=options or {})
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pixels
                stream.time_base = stream.codec_context.time_base = time_base or 1 / rate
                stream.codec_context.sample_aspect_ratio = Fraction(*pixel_aspect)
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24" if image.ndim == 3 else "gray").reformat(format=pixels)
            frame.pts, frame.time_base = pts(index), time_base or 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """A copy of a file that ends in the middle."""
    data = path.read_bytes()
    target = path.with_name(f"cut_{path.name}")
    target.write_bytes(data[: int(len(data) * share)])
    return target


FASTSTART = {"movflags": "+faststart"}


def collect(source: Source, frames: list[Frame]) -> None:
    """Append the source's frames to `frames`, so that those before an error are seen."""
    for frame in source:
        frames.append(frame)


def zero(path: Path, numbers: Iterable[int]) -> Path:
    """A copy of a file in which the packets with these numbers (in decoding order) are zeros."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for number in numbers:
        start = data.index(packets[number])
        data[start : start + len(packets[number])] = bytes(len(packets[number]))
    target = path.with_name(f"zero_{path.name}")
    target.write_bytes(data)
    return target
