"""Follow an object through a video file and write its boxes: `python examples/track_video.py clip.mp4 62,31,53,72 boxes.txt`."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine import Tracker
from engine.video import Reader, open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="video file, image folder or URL")
    parser.add_argument("box", help="x,y,w,h in the first frame")
    parser.add_argument("boxes", type=Path, help="text file to write")
    parser.add_argument("--model", default="esat-s-256")
    arguments = parser.parse_args()

    tracker = Tracker(arguments.model)
    lines = []
    with Reader(open_source(arguments.source)) as frames:  # decodes ahead in a thread of its own
        for frame in frames:
            if frame.index == 0:
                box = tuple(float(value) for value in arguments.box.split(","))
                tracker.init(frame.image, box)
            else:
                box = tracker.update(frame.image).box
            lines.append(",".join(f"{value:.2f}" for value in box))
    arguments.boxes.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} boxes written to {arguments.boxes}")


if __name__ == "__main__":
    main()
