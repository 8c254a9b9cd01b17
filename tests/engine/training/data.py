"""Small training material made by the tests: pictures whose object has a colour of its own, so that its box can be found again."""

from pathlib import Path

import cv2
import numpy as np

from engine.config import ModelConfig, preset
from engine.training.sources import Clip, Pool, Still

TINY: ModelConfig = preset("esat-s-256").replace(
    name="tiny", dim=24, heads=2, depth=3, head_channels=8, template_size=64, search_size=128, elimination_layers=(0, 2)
)
COLOUR = (40, 60, 230)  # BGR


def picture(box, size=(240, 320), seed=0):
    """A dim textured picture with a plain bright rectangle at `box` (x, y, w, h)."""
    image = np.random.default_rng(seed).integers(0, 60, (*size, 3), dtype=np.uint8)
    x, y, w, h = (round(value) for value in box)
    image[y : y + h, x : x + w] = COLOUR
    return image


def small_pool(stills=4, frames=6):
    """Stills of one object each and a clip of an object that moves."""
    rng = np.random.default_rng(1)
    boxes = [
        np.array([rng.integers(40, 160), rng.integers(30, 120), rng.integers(30, 90), rng.integers(30, 90)], float) for _ in range(stills)
    ]
    images = [Still([picture(box, seed=i)], 0, box[None], np.array([i % 2])) for i, box in enumerate(boxes)]
    track = np.array([[60 + 10 * t, 80, 50, 40] for t in range(frames)], float)
    track[1] = np.nan
    clip = Clip([picture(box if np.isfinite(box).all() else [0, 0, 1, 1], seed=9) for box in track], track)
    return Pool({"coco": images}, {"video": [clip]})


def write_folder(folder: Path):
    """The same as files, in the trainer's layout."""
    pool = small_pool()
    images = folder / "train_images" / "coco" / "img"
    images.mkdir(parents=True)
    rows = ["image\tcls\tx\ty\tw\th"]
    for index, still in enumerate(pool.stills["coco"]):
        cv2.imwrite(str(images / f"{index}.png"), still.image)
        rows.append("\t".join([f"{index}.png", str(still.classes[0]), *(str(value) for value in still.boxes[0])]))
    (images.parent / "boxes.tsv").write_text("\n".join(rows) + "\n")
    return folder
