"""Several targets, drawn with Roboflow's `supervision` (pip install supervision): boxes, labels and the paths that they took.

python examples/supervision_traces.py clip.mp4 drawn.mp4 100,80,40,60 200,120,30,30
"""

from __future__ import annotations

import argparse

import numpy as np
import supervision as sv

from engine import MultiTracker, Result, TargetState


def detections(results: dict[int, Result]) -> sv.Detections:
    """Our results as supervision has them: corners, scores, ids; targets that are lost are left out."""
    seen = {target: result for target, result in results.items() if result.state is not TargetState.LOST}
    boxes = np.array([result.box for result in seen.values()], dtype=float).reshape(-1, 4)
    return sv.Detections(
        xyxy=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        confidence=np.array([result.score for result in seen.values()], dtype=float),
        class_id=np.zeros(len(seen), dtype=int),
        tracker_id=np.array(list(seen), dtype=int),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("drawn", help="video to write (.mp4)")
    parser.add_argument("boxes", nargs="+", help="x,y,w,h in the first frame, one for each target")
    parser.add_argument("--model", default="esat-s-256")
    arguments = parser.parse_args()

    tracker = MultiTracker(arguments.model)
    trace, label, box = (
        annotator(color_lookup=sv.ColorLookup.TRACK) for annotator in (sv.TraceAnnotator, sv.LabelAnnotator, sv.BoxAnnotator)
    )
    with sv.VideoSink(arguments.drawn, sv.VideoInfo.from_video_path(arguments.video)) as sink:
        for index, frame in enumerate(sv.get_video_frames_generator(arguments.video)):
            if index == 0:
                for text in arguments.boxes:
                    tracker.add(frame, [float(value) for value in text.split(",")])
                continue
            found = detections(tracker.update(frame))
            drawn = box.annotate(trace.annotate(frame.copy(), found), found)
            sink.write_frame(label.annotate(drawn, found, [f"#{target}" for target in found.tracker_id]))
    print(f"{len(tracker.target_ids)} targets drawn in {arguments.drawn}")


if __name__ == "__main__":
    main()
