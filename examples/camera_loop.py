"""Follow what a camera sees in real time, always in its newest frame: `python examples/camera_loop.py 0 200,120,80,80`.

The loop stops by itself when the target has been lost for three seconds.
"""

from __future__ import annotations

import argparse

from engine import TargetState, Tracker
from engine.video import Reader, open_source

PATIENCE_SECONDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="camera number, or the URL of a stream")
    parser.add_argument("box", help="x,y,w,h in the first frame")
    parser.add_argument("--model", default="esat-s-256")
    parser.add_argument("--frames", type=int, help="stop after this many frames")
    arguments = parser.parse_args()

    tracker = Tracker(arguments.model)
    last_seen, count = None, 0
    with Reader(open_source(arguments.source), policy="newest") as frames:
        for frame in frames:
            if last_seen is None:
                tracker.init(frame.image, [float(value) for value in arguments.box.split(",")])
                last_seen = frame.timestamp
            else:
                result = tracker.update(frame.image)
                x, y, w, h = result.box
                print(f"{float(frame.timestamp):8.3f} s  {result.state:9}  score {result.score:.2f}  box {x:.1f} {y:.1f} {w:.1f} {h:.1f}")
                if result.state is not TargetState.LOST:
                    last_seen = frame.timestamp
            count += 1
            if frame.timestamp - last_seen > PATIENCE_SECONDS or count == arguments.frames:
                break
    print(f"{count} frames tracked, {frames.dropped} skipped to stay with the camera")


if __name__ == "__main__":
    main()
