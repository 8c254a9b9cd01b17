"""Labelling by tracking in both directions: what agrees stays, what was lost goes."""

import numpy as np

from engine.training.pseudo import consistent_track, label


def frames(count, lost_from=None):
    """Frames whose only pixel says where the object is; after `lost_from` it says nothing."""
    return [np.array([5.0 * t if lost_from is None or t < lost_from else np.nan]) for t in range(count)]


def follow(sequence, box):
    """Finds the object while it is there, and stands still when it is not."""
    boxes, place = [], np.array(box, float)
    for frame in sequence:
        if np.isfinite(frame[0]):
            place = np.array([frame[0], 10.0, 20.0, 20.0])
        boxes.append(place)
    return np.array(boxes)


def drifting(sequence, box):
    """Loses the object where it is not seen, and does not come back."""
    boxes, place, lost = [], np.array(box, float), False
    for frame in sequence:
        lost = lost or not np.isfinite(frame[0])
        place = np.add(place, [30.0, 0, 0, 0]) if lost else np.array([frame[0], 10.0, 20.0, 20.0])
        boxes.append(place)
    return np.array(boxes)


def test_a_good_tracker_labels_every_frame():
    boxes = label(frames(100), 50, np.array([250.0, 10, 20, 20]), follow)
    assert boxes.shape == (100, 4)
    assert np.allclose(boxes[:, 0], 5.0 * np.arange(100))


def test_a_lost_object_ends_the_track():
    boxes = consistent_track(frames(120, lost_from=60), np.array([0.0, 10, 20, 20]), drifting)
    assert np.isfinite(boxes[:40]).all()
    assert np.isnan(boxes[81:]).all()
