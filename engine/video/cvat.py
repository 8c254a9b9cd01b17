"""CVAT for video 1.1: the XML that CVAT takes in a task's "Upload annotations"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from engine.video.annotations import LOST, TrackedFrame, TrackFile
from engine.video.sinks import Record


class CvatVideo(TrackFile):
    """A track for each target, with a key frame in every frame, so that nothing is interpolated. LOST is outside="1", UNCERTAIN occluded="1".

    Frames are numbered as in the source, from 0. After a target's last frame a box that is outside ends the track, since CVAT would show it
    to the end of the task otherwise. The task needs a label of the name of `ClipInfo.label`.
    """

    def render(self, frames: Sequence[TrackedFrame], tracks: Mapping[int, Sequence[Record]]) -> str:
        root = ElementTree.Element("annotations")
        _add(root, "version", "1.1")
        self._add_meta(root, self.length(frames))
        for number, records in enumerate(tracks.values()):
            track = ElementTree.SubElement(root, "track", id=str(number), label=self.clip.label, source="auto")
            for record in records:
                _add_box(track, record, record.index, str(record.state) == LOST)
            last = records[-1]
            if last.index + 1 < self.length(frames) and str(last.state) != LOST:
                _add_box(track, last, last.index + 1, True)
        ElementTree.indent(root)
        return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"

    def _add_meta(self, root: ElementTree.Element, length: int) -> None:
        clip = self.clip
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        texts = {"name": clip.name, "size": length, "mode": "interpolation", "overlap": 0, "start_frame": 0, "stop_frame": length - 1}
        for name, value in texts.items():
            _add(task, name, str(value))
        label = ElementTree.SubElement(ElementTree.SubElement(task, "labels"), "label")
        _add(label, "name", clip.label)
        _add(label, "type", "rectangle")
        ElementTree.SubElement(label, "attributes")
        size = ElementTree.SubElement(task, "original_size")
        _add(size, "width", str(clip.width))
        _add(size, "height", str(clip.height))


def _add(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


def _add_box(track: ElementTree.Element, record: Record, frame: int, outside: bool) -> None:
    x, y, w, h = (float(value) for value in record.box)
    ElementTree.SubElement(
        track,
        "box",
        frame=str(frame),
        keyframe="1",
        outside=str(int(outside)),
        occluded=str(int(not outside and str(record.state) == "UNCERTAIN")),
        xtl=f"{x:.2f}",
        ytl=f"{y:.2f}",
        xbr=f"{x + w:.2f}",
        ybr=f"{y + h:.2f}",
        z_order="0",
    )
