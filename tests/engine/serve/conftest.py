"""A folder with a clip, and a runner of the tiny network."""

import importlib.util
from fractions import Fraction

import av
import numpy as np
import pytest

from engine.tracking.tracker import open_runner
from tests.require import require


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """clip.mp4: 12 frames of 320 x 240, a red rectangle moves to the right; beside it a text file."""
    folder = tmp_path_factory.mktemp("clips")
    background = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(12):
            image = background.copy()
            image[80:140, 100 + 2 * index : 140 + 2 * index] = (0, 0, 255)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode())
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture(scope="session")
def runner(tiny_weights):
    missing = [
        name for name in ("fastapi", "uvicorn", "prometheus_client", "httpx", "websockets") if importlib.util.find_spec(name) is None
    ]
    require("serve", f"not installed: {', '.join(missing)}" if missing else None)
    return open_runner(tiny_weights, "cpu", "fp32", "auto")
