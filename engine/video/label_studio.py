"""Label Studio's JSON for tracked boxes in videos (`VideoRectangle`), to be imported as a task with predictions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.video.annotations import LOST, TrackedFrame, TrackFile
from engine.video.sinks import Record


class LabelStudioVideo(TrackFile):
    """One task with one prediction: a `videorectangle` for each target, boxes in percent of the frame, frames from 1.

    `enabled` says whether the target is seen in the frames after a key frame: false in the last frame before it is LOST and where its track
    ends. LOST frames are left out. The labelling interface needs `<Video name="video" value="$video">`,
    `<VideoRectangle name="box" toName="video">` and `<Labels name="videoLabels" toName="video">` with the label.
    """

    def render(self, frames: Sequence[TrackedFrame], tracks: Mapping[int, Sequence[Record]]) -> str:
        clip, length = self.clip, self.length(frames)
        following = dict(itertools.pairwise(seen.index for seen in frames))  # the tracked frame after each one: live sources skip some
        duration = round(max(float(length / clip.rate), max((float(seen.time) for seen in frames), default=0.0)), 6)
        results = [
            {
                "id": f"target-{target}",
                "type": "videorectangle",
                "from_name": "box",
                "to_name": "video",
                "origin": "prediction",
                "score": round(sum(float(record.score) for record in records) / len(records), 6),
                "value": {
                    "framesCount": length,
                    "duration": duration,
                    "labels": [clip.label],
                    "sequence": _sequence(records, frames, following),
                },
                "meta": {"text": [f"id {target}"]},
            }
            for target, records in tracks.items()
        ]
        prediction = {"model_version": clip.model, "result": results}
        return json.dumps([{"data": {"video": clip.name}, "predictions": [prediction]}], indent=1) + "\n"


def _sequence(records: Sequence[Record], frames: Sequence[TrackedFrame], following: Mapping[int, int]) -> list[dict[str, Any]]:
    of, seen = {frame.index: frame for frame in frames}, [record for record in records if str(record.state) != LOST]
    shown = {record.index for record in seen}
    return [
        {
            "frame": record.index + 1,
            "enabled": following.get(record.index) in shown,
            "rotation": 0,
            "x": _percent(record.box[0], of[record.index].width),
            "y": _percent(record.box[1], of[record.index].height),
            "width": _percent(record.box[2], of[record.index].width),
            "height": _percent(record.box[3], of[record.index].height),
            "time": float(of[record.index].time),
        }
        for record in seen
    ]


def _percent(value: float, whole: int) -> float:
    return round(100 * float(value) / whole, 4)
