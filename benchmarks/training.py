"""What training costs: attention and a whole step with the fused backward against eager FDA, and the painting of training pairs, in pairs a second.

    python -m benchmarks.training [--data DIR] [--dtypes bf16,fp32] [--batch 4] [--threads 2] [--seconds 20] [--json FILE|-]

Attention is forward and backward of one layer's attention (6 heads of 64, 320 tokens). A step is forward, equation 8, backward, clipping and AdamW
of `esat-s-256` on random crops; variants differ in the attention alone. Painting is measured on one thread at a time with real pictures (without
`--data`, not at all): OpenCV, and PyTorch on this device. `--no-keep-memory` leaves the allocator as a process finds it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.harness import choices, interleaved, machine, write_rows
from engine.cli.exits import run_function
from engine.config import preset
from engine.model.backbone import Attention
from engine.training.config import TrainConfig
from engine.training.distributed import choose_device
from engine.training.memory import keep_freed_memory
from engine.training.paint_cpu import paint
from engine.training.paint_device import Painter
from engine.training.pairs import Batch, PairMaker
from engine.training.sources import Pool, read_pool
from engine.training.trainer import Trainer
from esat_kernels import fda_attention

_PICTURES = 300  # of each group: enough to leave the caches, few enough to be read quickly


def _step(attention: str, dtype: str, batch: int, folder: Path) -> Callable[[], object]:
    """One training step with FDA by the best backend (`fused`), by the reference (`eager`), or with the repulsion alone."""
    model = preset("esat-s-256")
    kind = "repulsion" if attention == "repulsion" else "full"
    config = TrainConfig(model=model, batch=batch, precision=dtype, attention=kind, warmup_steps=1, augment_on="cpu")
    trainer = Trainer(config, _NoPairs(), folder / f"{attention}-{dtype}")  # type: ignore[arg-type]
    for module in trainer.model.modules():
        if attention == "eager" and isinstance(module, Attention):
            module.backend = "reference"
    random = torch.Generator().manual_seed(0)
    crops = [torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=random) for size in (128, 256)]
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.25]]).repeat(batch, 1)
    return lambda: trainer.train_step(Batch(crops[0], crops[1], boxes, torch.ones(batch, dtype=torch.bool), boxes))


def _attention(backend: str, dtype: torch.dtype, batch: int) -> Callable[[], object]:
    """Forward and backward of FDA on slices of one QKV tensor, as a layer has them."""
    random = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, 320, 3, 6, 64, generator=random).to(dtype).requires_grad_()
    grad = torch.randn(batch, 6, 320, 64, generator=random).to(dtype)

    def run() -> object:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return torch.autograd.grad(fda_attention(q, k, v, 0.1, 0.1, backend=backend), qkv, grad)

    return run


class _NoPairs:
    """Steps are given their batch."""

    pool = Pool({}, {})


def _painting(data: Path, batch: int) -> dict[str, Callable[[], object]]:
    whole = read_pool(data)
    pool = Pool(
        {name: stills[:_PICTURES] for name, stills in whole.stills.items()}, {name: clips[:3] for name, clips in whole.clips.items()}
    )
    config = TrainConfig()
    makers = {
        "paint opencv": PairMaker(pool, config.model, config.augment, 0, paint),
        "paint pytorch": PairMaker(pool, config.model, config.augment, 0, Painter(pool, choose_device("auto"))),
    }
    counters = dict.fromkeys(makers, 0)

    def draw(name: str) -> object:
        counters[name] += 1
        return makers[name].batch(counters[name], batch)

    runs: dict[str, Callable[[], object]] = {name: (lambda name=name: draw(name)) for name in makers}  # type: ignore[misc]
    return runs


def main(
    data: Annotated[Path | None, typer.Option(help="Folder with train_images/ and train_video/.")] = None,
    dtypes: Annotated[str, typer.Option(help="bf16, fp32, with commas.")] = "bf16,fp32",
    batch: Annotated[int, typer.Option(min=1)] = 4,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    keep_memory: Annotated[bool, typer.Option(help="The allocator's settings that `esat train` makes.")] = True,
    seconds: Annotated[float, typer.Option(help="For each group of variants.")] = 20.0,
    json: Annotated[str | None, typer.Option("--json", help="File for JSON lines, - for standard output.")] = None,
) -> None:
    """Measure training steps and painting."""
    if keep_memory:
        keep_freed_memory()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in choices(dtypes, ("bf16", "fp32"), "--dtypes"):
            torch.set_num_threads(threads)
            kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
            attention = {name: _attention(backend, kind, batch) for name, backend in (("fused", "cpu"), ("eager", "reference"))}
            rows += _measure("attention", {"dtype": dtype}, attention, batch, seconds / 4, "eager", keep_memory)
            steps = {name: _step(name, dtype, batch, Path(folder)) for name in ("fused", "eager", "repulsion")}
            rows += _measure("training step", {"dtype": dtype}, steps, batch, seconds, "eager", keep_memory)
    if data is not None:
        torch.set_num_threads(1)
        rows += _measure("painting", {}, _painting(data, batch), batch, seconds, "paint opencv", keep_memory)
    write_rows(rows, json)


def _measure(
    what: str, labels: dict[str, str], runs: dict[str, Callable[[], object]], batch: int, seconds: float, base: str, keep_memory: bool
) -> list[dict[str, Any]]:
    found = interleaved(runs, seconds, warm_up=1, least_rounds=5)
    rows = []
    for name, timing in found.items():
        speed = 1e6 * batch / timing.median_us
        rows.append(
            {
                "what": what,
                "impl": name,
                **labels,
                "batch": batch,
                "keep_memory": keep_memory,
                "median_ms": timing.median_us / 1e3,
                "p99_ms": timing.p99_us / 1e3,
                "calls": timing.calls,
                "pairs_per_s": speed,
                f"speedup_over_{base.replace(' ', '_')}": found[base].median_us / timing.median_us,
                **machine(),
            }
        )
        Console(stderr=True).print(f"{what} {name} {labels}: {timing.median_us / 1e3:.0f} ms, {speed:.1f} pairs/s", highlight=False)
    return rows


if __name__ == "__main__":
    run_function(main)
