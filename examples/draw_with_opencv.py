"""The tracker inside a plain OpenCV program: `python examples/draw_with_opencv.py clip.mp4 62,31,53,72 drawn.avi`."""

from __future__ import annotations

import argparse

import cv2

from engine import TargetState, Tracker

COLORS = {TargetState.TRACKING: (0, 255, 0), TargetState.UNCERTAIN: (0, 190, 255), TargetState.LOST: (0, 0, 255)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("box", help="x,y,w,h in the first frame")
    parser.add_argument("drawn", help="video to write (.avi)")
    parser.add_argument("--model", default="esat-s-256")
    arguments = parser.parse_args()

    capture = cv2.VideoCapture(arguments.video)
    good, frame = capture.read()
    if not good:
        raise SystemExit(f"OpenCV cannot read {arguments.video}")
    height, width = frame.shape[:2]
    writer = cv2.VideoWriter(arguments.drawn, cv2.VideoWriter.fourcc(*"MJPG"), capture.get(cv2.CAP_PROP_FPS) or 25, (width, height))
    tracker = Tracker(arguments.model)
    tracker.init(frame, [float(value) for value in arguments.box.split(",")])
    while True:
        good, frame = capture.read()
        if not good:
            break
        result = tracker.update(frame)
        x, y, w, h = (round(value) for value in result.box)
        cv2.rectangle(frame, (x, y), (x + w, y + h), COLORS[result.state], 2)
        writer.write(frame)
    writer.release()
    capture.release()


if __name__ == "__main__":
    main()
