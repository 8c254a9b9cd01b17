"""Frames of a GStreamer pipeline, through a pipe: no OpenCV with GStreamer in it is needed.

    python examples/gstreamer_pipe.py "filesrc location=clip.mp4 ! decodebin" 640x360 100,80,40,60

Any source will do, such as `v4l2src`, `rtspsrc location=... ! decodebin` or `nvarguscamerasrc`. The pipeline is given a size, so that it
is known where one raw frame ends.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from collections.abc import Iterator

import numpy as np

from engine import Tracker


def frames(pipeline: str, width: int, height: int) -> Iterator[np.ndarray]:
    """Raw BGR frames [height, width, 3]; GStreamer pads each row to a multiple of four bytes."""
    stride = (3 * width + 3) // 4 * 4
    raw = f"video/x-raw,format=BGR,width={width},height={height}"
    command = ["gst-launch-1.0", "-q", *shlex.split(f"{pipeline} ! videoconvert ! videoscale ! {raw} ! fdsink fd=1")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=stride * height) as process:
        assert process.stdout is not None
        while len(data := process.stdout.read(stride * height)) == stride * height:
            yield np.frombuffer(data, np.uint8).reshape(height, stride)[:, : 3 * width].reshape(height, width, 3)
    if process.returncode:
        raise SystemExit(f"gst-launch-1.0 failed with exit code {process.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", help="the part that gives video, in gst-launch's syntax")
    parser.add_argument("size", help="WIDTHxHEIGHT to track at")
    parser.add_argument("box", help="x,y,w,h in the first frame, at that size")
    parser.add_argument("--model", default="esat-s-256")
    arguments = parser.parse_args()

    width, height = (int(side) for side in arguments.size.split("x"))
    tracker = Tracker(arguments.model)
    for index, frame in enumerate(frames(arguments.pipeline, width, height)):
        if index == 0:
            tracker.init(frame, [float(value) for value in arguments.box.split(",")])
            continue
        result = tracker.update(frame)
        print(index, *(f"{value:.1f}" for value in result.box), f"{result.score:.2f}", result.state)


if __name__ == "__main__":
    main()
