"""`esat export --onnx OUT`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="The .onnx file to write.")],
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = "esat-s-256",
    batch: Annotated[int, typer.Option(min=1, help="Fixed batch size of the file.")] = 1,
    check: Annotated[str | None, typer.Option(help="A video or image folder on which the file is compared with PyTorch.")] = None,
    box: Annotated[str | None, typer.Option(help="X,Y,W,H of a target in the first frame of --check.")] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames of --check to compare.")] = 20,
    runtimes: Annotated[str, typer.Option(help="What to check with, with commas: onnxruntime, openvino.")] = "onnxruntime",
) -> None:
    """Export the network to ONNX, and check the file on real frames: kept tokens, scores, boxes. Exit code 1 if it disagrees."""
    import dataclasses
    import itertools
    import json

    from engine.cli.terminal import terminal
    from engine.clips.given import parse_box
    from engine.errors import ConfigError
    from engine.export.check import RUNTIMES
    from engine.export.check import check as compare
    from engine.export.onnx import export_onnx
    from engine.files import PendingFile
    from engine.video import open_source
    from engine.weights import find_weights

    chosen = runtimes.split(",")
    if unknown := sorted(set(chosen) - set(RUNTIMES)):
        raise ConfigError(f"--runtimes must be of {', '.join(RUNTIMES)}, got {', '.join(unknown)}")
    if (check is None) != (box is None):
        raise ConfigError("--check SOURCE and --box X,Y,W,H go together")
    if check is not None and batch != 1:
        raise ConfigError(f"--check compares one target: export with --batch 1, got {batch}")
    start = parse_box(box) if box is not None else None
    weights = find_weights(model)
    console = terminal()
    with _step(f"exporting {weights.config.name}"):
        export_onnx(weights, onnx, batch)
    console.print(f"{onnx}: {weights.config.name}, batch {batch}, {onnx.stat().st_size / 2**20:.1f} MiB", highlight=False)
    if check is None or start is None:
        console.print("not checked: give a clip with --check and a target with --box", highlight=False)
        return
    reports = []
    for runtime in chosen:
        with open_source(check) as source, _step(f"checking with {runtime} on {frames} frames"):
            report = compare(onnx, weights, (frame.image for frame in itertools.islice(source, frames)), start, runtime)
        reports.append({**dataclasses.asdict(report), "ok": report.ok})
        console.print(
            f"{runtime} {report.version}: {report.frames} frames, same tokens in {report.same_tokens}, ties {report.ties}, score error "
            f"{report.max_score_error:.1e}, box error {report.max_box_error_px:.1e} px: {'ok' if report.ok else 'DISAGREES'}",
            highlight=False,
        )
    with PendingFile(onnx.with_suffix(".check.json")) as pending:
        pending.partial.write_text(json.dumps(reports, indent=2) + "\n")
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


def _step(what: str) -> AbstractContextManager[Any]:
    """A turning sign on standard error while a step takes its time, or a line where that is no terminal."""
    from engine.cli.lines import bar_is_shown, say
    from engine.cli.terminal import terminal

    if bar_is_shown():
        return terminal(stderr=True).status(what)
    say(what)
    return nullcontext()
