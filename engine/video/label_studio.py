"""Label Studio's JSON for tracked boxes in videos (`VideoRectangle`), to be imported as a task with predictions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.video.annotations import LOST, ClipInfo, TrackedFrame, TrackFile
from engine.video.sinks import Record


class LabelStudioVideo(TrackFile):
    """One task with one prediction: a `videorectangle` for each target, boxes in percent of the frame, frames from 1.

    `enabled` says whether the target is seen in the frames after a key frame: false in the last frame before it is LOST and where its track
    ends. LOST frames are left out. The labelling interface needs `<Video name="video" value="$video">`,
    `<VideoRectangle name="box" toName="video">` and `<Labels name="videoLabels" toName="video">` with the label.
    """

    def render(self, frames: Sequence[TrackedFrame], tracks: Mapping[int, Sequence[Record]]) -> str:
        clip, length = self.clip, self.length(frames)
        times = {seen.index: float(seen.time) for seen in frames}
        following = dict(itertools.pairwise(times))  # the tracked frame after each one: live sources skip some
        duration = round(max(float(length / clip.rate), max(times.values(), default=0.0)), 6)
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
                    "sequence": _sequence(records, clip, times, following),
                },
                "meta": {"text": [f"id {target}"]},
            }
            for target, records in tracks.items()
        ]
        prediction = {"model_version": clip.model, "result": results}
        return json.dumps([{"data": {"video": clip.name}, "predictions": [prediction]}], indent=1) + "\n"


def _sequence(records: Sequence[Record], clip: ClipInfo, times: Mapping[int, float], following: Mapping[int, int]) -> list[dict[str, Any]]:
    seen = [record for record in records if str(record.state) != LOST]
    shown = {record.index for record in seen}
    return [
        {
            "frame": record.index + 1,
            "enabled": following.get(record.index) in shown,
            "rotation": 0,
            "x": _percent(record.box[0], clip.width),
            "y": _percent(record.box[1], clip.height),
            "width": _percent(record.box[2], clip.width),
            "height": _percent(record.box[3], clip.height),
            "time": times[record.index],
        }
        for record in seen
    ]


def _percent(value: float, whole: int) -> float:
    return round(100 * float(value) / whole, 4)
