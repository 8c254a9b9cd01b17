"""`esat explain SEQUENCE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    sequence: Annotated[str, typer.Argument(help="A video, an image folder, or a sequence folder with img/ and groundtruth.txt.")],
    box: Annotated[str | None, typer.Option(help="X,Y,W,H in the first frame; default: the first line of groundtruth.txt.")] = None,
    frames: Annotated[
        str, typer.Option(help="Frame numbers to show, with commas; the first frame is 0 and holds the template.")
    ] = "1,10,20,40",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for frames.png, correlations.png and explain.mp4.")] = Path(
        "out/explain"
    ),
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = "esat-s-256",
    video: Annotated[bool, typer.Option("--video", help="Also write explain.mp4 with every frame.")] = False,
) -> None:
    """Show what the network saw: eliminated tokens, attention, score and feature maps, boxes, and token correlations."""
    from rich.progress import Progress

    from engine.cli.terminal import terminal
    from engine.clips.given import parse_box
    from engine.errors import ConfigError
    from engine.explain.walk import explain as run
    from engine.video import open_source
    from engine.weights import find_weights

    try:
        chosen = sorted({int(number) for number in frames.split(",")})
    except ValueError as error:
        raise ConfigError(f"--frames must be whole numbers with commas, got {frames!r}") from error
    if min(chosen) < 1:
        raise ConfigError(f"--frames must be 1 or more (frame 0 holds the template), got {frames!r}")
    truth = _ground_truth(Path(sequence))
    if box is None and not truth:
        raise ConfigError(f"{sequence} has no groundtruth.txt: give the target with --box X,Y,W,H")
    start = parse_box(box) if box is not None else truth[0]
    folder = Path(sequence) / "img"
    weights = find_weights(model)
    console = terminal()
    with open_source(folder if folder.is_dir() else sequence) as source, Progress(console=console, transient=True) as progress:
        task = progress.add_task("explaining", total=max(chosen))
        written = run(source, start, weights, out, chosen, truth, video, lambda frame: progress.update(task, completed=frame.index))
    for path in (written.rows, written.correlations, written.video):
        if path is not None:
            console.print(path, highlight=False)


def _ground_truth(folder: Path) -> list[tuple[float, float, float, float]]:
    """The boxes beside img/, if there are any."""
    from engine.datasets.text import read_boxes

    path = folder / "groundtruth.txt"
    return [(x, y, w, h) for x, y, w, h in read_boxes(path).tolist()] if path.is_file() else []
