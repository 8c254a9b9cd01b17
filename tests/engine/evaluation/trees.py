"""Small data sets in the benchmarks' own formats, made by the tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 96, 64


def moving_boxes(frames: int, step: float = 2.0) -> np.ndarray:
    """Boxes [frames, 4] of a square that moves to the right."""
    return np.array([[10 + step * index, 20.0, 16.0, 16.0] for index in range(frames)])


def picture(box: np.ndarray) -> np.ndarray:
    """A textured square on a smooth background, uint8 [HEIGHT, WIDTH, 3]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([rows * 2, columns, 120 + rows - columns // 2], -1).astype(np.uint8)
    x, y, w, h = box.astype(int)
    patch = np.random.default_rng(3).integers(0, 255, (h, w, 3), np.uint8)
    view = image[y : y + h, x : x + w]
    view[:] = patch[: view.shape[0], : view.shape[1]]
    return image


def write_images(folder: Path, boxes: np.ndarray, pattern: str = "{:08d}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, box in enumerate(boxes):
        assert cv2.imwrite(str(folder / pattern.format(index + first)), picture(box))


def write_boxes(path: Path, boxes: np.ndarray, separator: str = ",", form: str = "%g") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, boxes, fmt=form, delimiter=separator)


def otb(root: Path, name: str = "Square", frames: int = 5, separator: str = ",", truth: str = "groundtruth_rect.txt") -> Path:
    write_images(root / name / "img", moving_boxes(frames), "{:04d}.jpg")
    write_boxes(root / name / truth, moving_boxes(frames), separator)
    return root / name


def lasot(root: Path, name: str = "airplane-1", frames: int = 6, occluded: tuple[int, ...] = (), outside: tuple[int, ...] = ()) -> Path:
    folder = root / name.rpartition("-")[0] / name
    write_images(folder / "img", moving_boxes(frames))
    write_boxes(folder / "groundtruth.txt", moving_boxes(frames), form="%d")
    for file, absent in (("full_occlusion.txt", occluded), ("out_of_view.txt", outside)):
        (folder / file).write_text(",".join("1" if index in absent else "0" for index in range(frames)))
    return folder


def got10k(root: Path, part: str = "val", number: int = 1, frames: int = 5, cover: tuple[int, ...] | None = None) -> Path:
    name = f"GOT-10k_{part.capitalize()}_{number:06d}"
    folder = root / part / name
    write_images(folder, moving_boxes(frames))
    known = moving_boxes(frames)[:1] if part == "test" else moving_boxes(frames)
    write_boxes(folder / "groundtruth.txt", known, form="%.4f")
    if part != "test":
        labels = cover or (8,) * frames
        (folder / "cover.label").write_text("".join(f"{label}\n" for label in labels))
        (folder / "absence.label").write_text("".join(f"{int(label == 0)}\n" for label in labels))
    with open(root / part / "list.txt", "a") as file:
        file.write(name + "\n")
    return folder


def trackingnet(root: Path, name: str = "abc_0", frames: int = 12, part: str = "TEST") -> Path:
    write_images(root / part / "frames" / name, moving_boxes(frames), "{}.jpg", first=0)
    write_boxes(root / part / "anno" / f"{name}.txt", moving_boxes(frames)[: 1 if part == "TEST" else None], form="%.2f")
    return root / part / "frames" / name


def tnl2k(root: Path, name: str = "Cartoon_Robot_video_Z01_done", frames: int = 5) -> Path:
    write_images(root / name / "imgs", moving_boxes(frames), "{:05d}.png")
    write_boxes(root / name / "groundtruth.txt", moving_boxes(frames), form="%d")
    (root / name / "language.txt").write_text("the square that moves to the right")
    return root / name


def video(root: Path, name: str = "clip", frames: int = 6, boxes: np.ndarray | None = None) -> Path:
    import av

    root.mkdir(parents=True, exist_ok=True)
    with av.open(str(root / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for box in moving_boxes(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(box), format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    write_boxes(root / f"{name}.txt", moving_boxes(frames) if boxes is None else boxes)
    return root / f"{name}.mp4"


def tiny_weights(path: Path) -> Path:
    """Weights of a network with random parameters that is quick enough for tests."""
    from conformance import golden
    from engine.weights.io import save_weights
    from tests.networks import TINY

    config = TINY.replace(dim=16, depth=3)
    save_weights(path, golden.draw_weights(config, 1, 1.0, path).state_dict, config)
    return path
