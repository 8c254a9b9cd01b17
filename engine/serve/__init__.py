"""The local page: choose a clip or camera, draw a box, watch the tracker. Needs the extra `serve`."""
