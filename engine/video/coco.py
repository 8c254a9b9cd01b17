"""COCO JSON of a video: `videos`, `images`, `annotations` with track ids, as CocoVID (MMTracking) and TAO have it; pycocotools reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from engine.video.annotations import LOST, TrackedFrame, TrackFile
from engine.video.sinks import Record


class CocoVideo(TrackFile):
    """One video, one image a frame that was tracked, one annotation a target and frame; none where the target is LOST.

    `frame_id` and `frame_index` (CocoVID's and TAO's names) count from 0 in the source; `instance_id` and `track_id` are the target's id.
    """

    def render(self, frames: Sequence[TrackedFrame], tracks: Mapping[int, Sequence[Record]]) -> str:
        clip = self.clip
        size = {"width": clip.width, "height": clip.height}
        images = [
            {
                "id": seen.index + 1,
                "video_id": 1,
                "file_name": clip.picture(seen.index),
                "width": seen.width,
                "height": seen.height,
                "frame_id": seen.index,
                "frame_index": seen.index,
                "time": float(seen.time),
            }
            for seen in frames
        ]
        found = [record for track in tracks.values() for record in track if str(record.state) != LOST]
        annotations = []
        for number, record in enumerate(sorted(found, key=lambda record: (record.index, record.target)), 1):
            box = [round(float(value), 3) for value in record.box]
            annotations.append(
                {
                    "id": number,
                    "image_id": record.index + 1,
                    "video_id": 1,
                    "category_id": 1,
                    "instance_id": record.target,
                    "track_id": record.target,
                    "bbox": box,
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": 0,
                    "score": round(float(record.score), 6),
                }
            )
        content: dict[str, Sequence[object]] = {
            "videos": [{"id": 1, "name": clip.name, **size, "fps": float(clip.rate), "length": self.length(frames)}],
            "images": images,
            "tracks": [{"id": target, "video_id": 1, "category_id": 1} for target in tracks],
            "annotations": annotations,
            "categories": [{"id": 1, "name": clip.label}],
        }
        return _lines(content)


def _lines(content: Mapping[str, Sequence[object]]) -> str:
    """JSON with one line for each entry, so that files can be compared."""
    parts = (
        f'"{key}": [' + "".join(f"\n  {json.dumps(entry)}," for entry in entries).rstrip(",") + "\n]" for key, entries in content.items()
    )
    return "{\n" + ",\n".join(parts) + "\n}\n"
