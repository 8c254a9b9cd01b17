"""The paper's table 2: the eight variants' parameters and multiply-accumulates, beside what an engine really computes, and frames/s.

    python -m benchmarks.table2 [--json FILE|-] [--markdown FILE] [--measure cpu|cuda [--protocols public,honest,engine] [--dtype fp32,bf16]
                                 [--seconds 3] [--store benchmarks/results/DEVICE]]

`params_m` and `macs_g` follow the thop convention that the paper used (see `macs.ThopCounter`); `macs_all_g` counts every matrix product;
`macs_engine_g` is the engine's real count after leaving out work that cannot change the result, without the position loss's networks,
which only training needs. The widths of those networks are not in the paper: `engine.model.position` infers them from this table.

Frames/s come from `benchmarks/results/<device>/table2.json`, which `--measure` with `--store` writes, with table2.md and table2.png beside it;
what was not measured stays empty. Protocols:
  public  as OSTrack's `profile_model.py`: training mode, position networks included, no synchronisation before the clock, nothing read back
  honest  evaluation mode, without the position networks, the box read back every frame; median latency
  engine  the fastest runner: crop, network and decode of one target; median latency

Exit code 1 if a row differs from the paper's printed digits.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks import macs, table2_report
from benchmarks.harness import choices, machine, write_rows
from conformance import golden
from engine import ModelConfig, build_model, preset
from engine.cli.exits import run_function
from engine.evaluation.tables import terminal_table
from engine.model.position import PositionHeads
from engine.runners.choice import make_runner
from engine.runners.device import resolve_device
from engine.runners.protocol import DTYPES
from engine.weights.io import Weights

RESULTS = Path(__file__).parent / "results"
PROTOCOLS = ("public", "honest", "engine")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row: absolute and positive-negative position loss, force-directed attention, and what the paper prints."""

    absolute: bool
    positive: bool
    fda: bool
    paper_fps: float
    paper_macs_g: float
    paper_params_m: float

    @property
    def config(self) -> ModelConfig:
        return preset("esat-384" if self.fda else "ostrack-384")

    def position_heads(self) -> PositionHeads | None:
        """With both classifiers whenever one of the losses is on: the paper's rows with one loss and with both cost the same."""
        if not (self.absolute or self.positive):
            return None
        return PositionHeads(self.config, shared=self.fda)  # inferred: only so do both groups of rows come out


VARIANTS = (
    Variant(False, False, False, 114.4, 48.4, 92.1),
    Variant(True, False, False, 106.6, 50.9, 99.0),
    Variant(False, True, False, 106.8, 50.9, 99.0),
    Variant(False, False, True, 96.2, 48.4, 92.1),
    Variant(True, True, False, 107.5, 50.9, 99.0),
    Variant(True, False, True, 82.3, 50.3, 94.8),
    Variant(False, True, True, 81.7, 50.3, 94.8),
    Variant(True, True, True, 83.2, 50.3, 94.8),
)


@dataclasses.dataclass(frozen=True)
class Counts:
    """One network with its position heads, counted."""

    thop_parameters: int
    thop_macs: int
    every_product: int
    closed_form_agrees: bool


@functools.cache  # eight rows, four networks
def count(fda: bool, position: bool) -> Counts:
    """Count the network of table 2 with or without force-directed attention and position heads."""
    variant = next(entry for entry in VARIANTS if entry.fda == fda and (entry.absolute or entry.positive) == position)
    config = variant.config
    with torch.device("meta"):
        network, heads = build_model(config, "reference").eval(), variant.position_heads()
        images = [torch.empty(1, 3, size, size) for size in (config.template_size, config.search_size)]
    models: list[nn.Module] = [network] if heads is None else [network, heads.eval()]

    def forward() -> None:
        prediction = network(*images)
        if heads is not None:
            heads(prediction.template_features, prediction.search_features)

    with torch.inference_mode():
        with macs.ThopCounter(*models) as thop:
            forward()
        agrees = macs.count_products(lambda: network(*images)) == macs.closed_form(config)
        return Counts(thop.parameters, thop.macs, macs.count_products(forward), agrees)


def count_row(variant: Variant, fps: dict[str, dict[str, float]]) -> dict[str, Any]:
    """One row of the table. `ok`: parameters and MACs agree with the paper's printed digits, and closed form and counter agree."""
    counts = count(variant.fda, variant.absolute or variant.positive)
    params_m, macs_g = round(counts.thop_parameters / 1e6, 1), round(counts.thop_macs / 1e9, 1)
    return {
        "abs": variant.absolute,
        "pn": variant.positive,
        "fda": variant.fda,
        "params_m": params_m,
        "macs_g": macs_g,
        "macs_all_g": round(counts.every_product / 1e9, 2),
        "macs_engine_g": round(macs.engine_count(variant.config) / 1e9, 2),
        "paper_params_m": variant.paper_params_m,
        "paper_macs_g": variant.paper_macs_g,
        "paper_fps": variant.paper_fps,
        "fps": fps,
        "ok": (params_m, macs_g) == (variant.paper_params_m, variant.paper_macs_g) and counts.closed_form_agrees,
    }


def fps_of(variant: Variant, measurements: list[dict[str, Any]]) -> dict[str, float]:
    """Measured frames/s of a row: {protocol and dtype: value}."""
    found = {}
    for entry in measurements:
        losses = (variant.absolute or variant.positive) and entry["protocol"] == "public"  # the others leave those networks out
        if entry["fda"] == variant.fda and entry["position"] == losses:
            found[f"{entry['protocol']} {entry['dtype']}"] = entry["fps"]
    return found


def stored(store: Path) -> list[dict[str, Any]]:
    """The measurements in STORE/table2.json, each with its machine; none without the file."""
    path = store / "table2.json"
    return json.loads(path.read_text())["measurements"] if path.is_file() else []


def stored_fps(variant: Variant, results: Path = RESULTS) -> dict[str, dict[str, float]]:
    """Measured frames/s of a row from the stored results: {device: {protocol and dtype: value}}."""
    by_device = {path.parent.name: stored(path.parent) for path in sorted(results.glob("*/table2.json"))}
    return {device: found for device, measurements in by_device.items() if (found := fps_of(variant, measurements))}


def measure(device: str, dtype: str, protocols: list[str], seconds: float, backend: str = "auto") -> Iterator[dict[str, Any]]:
    """Frames/s of the networks that differ in the table, each for about `seconds`, one after the other. backend: of the engine's protocol."""
    for fda in (False, True):
        variant = next(entry for entry in VARIANTS if entry.fda == fda and (entry.absolute, entry.positive) == (True, True))
        for protocol in protocols:
            for position in (False, True) if protocol == "public" else (False,):
                named = {"backend": backend} if protocol == "engine" else {}
                latencies = _PROTOCOLS[protocol](variant, position, device, dtype, seconds, **named)
                middle = statistics.median(latencies) if protocol != "public" else statistics.fmean(latencies)
                yield {
                    "fda": fda,
                    "position": position,
                    "protocol": protocol,
                    "dtype": dtype,
                    "fps": round(1 / middle, 2),
                    "frames": len(latencies),
                    "p99_ms": round(1e3 * sorted(latencies)[int(0.99 * (len(latencies) - 1))], 2),
                }


def _public(variant: Variant, position: bool, device: str, dtype: str, seconds: float) -> list[float]:
    network, heads = build_model(variant.config).to(device), variant.position_heads() if position else None
    if heads is not None:
        heads = heads.to(device)
    images = [torch.randn(1, 3, size, size, device=device) for size in (variant.config.template_size, variant.config.search_size)]

    def frame() -> None:
        with torch.no_grad(), torch.autocast(torch.device(device).type, DTYPES[dtype], enabled=dtype != "fp32"):
            prediction = network(*images)
            if heads is not None:
                heads(prediction.template_features, prediction.search_features)

    return _repeat(frame, seconds)


def _honest(variant: Variant, position: bool, device: str, dtype: str, seconds: float) -> list[float]:
    network = build_model(variant.config).to(device).eval()
    images = [torch.randn(1, 3, size, size, device=device) for size in (variant.config.template_size, variant.config.search_size)]

    def frame() -> None:
        with torch.inference_mode(), torch.autocast(torch.device(device).type, DTYPES[dtype], enabled=dtype != "fp32"):
            network(*images).box.tolist()

    return _repeat(frame, seconds)


@functools.cache
def _drawn() -> Weights:
    return golden.draw_weights(preset("esat-384"), 12, 1.0, Path("table2"))


def _engine(variant: Variant, position: bool, device: str, dtype: str, seconds: float, backend: str = "auto") -> list[float]:
    import numpy as np

    weights = dataclasses.replace(_drawn(), config=variant.config)  # with and without FDA the parameters are the same
    runner = make_runner(weights, device, dtype, backend)
    picture = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    box = (600.0, 300.0, 90.0, 60.0)
    template = runner.encode_template(picture, box, True)
    return _repeat(lambda: runner.observe(picture, [box], [template], True), seconds)


_PROTOCOLS: dict[str, Callable[..., list[float]]] = {"public": _public, "honest": _honest, "engine": _engine}


def _repeat(frame: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each frame, after three frames of warm-up; at least three frames."""
    for _ in range(3):
        frame()
    latencies: list[float] = []
    while len(latencies) < 3 or sum(latencies) < seconds:
        start = time.perf_counter()
        frame()
        latencies.append(time.perf_counter() - start)
    return latencies


def main(
    json_output: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="JSON lines to this file, - for standard output.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="The table as Markdown.")] = None,
    measure_on: Annotated[str | None, typer.Option("--measure", metavar="DEVICE", help="Measure frames/s on cpu or cuda first.")] = None,
    protocols: Annotated[str, typer.Option(help="Which to measure, with commas: public, honest, engine.")] = ",".join(PROTOCOLS),
    dtype: Annotated[str, typer.Option(help="Which to measure, with commas: fp32, bf16, fp16.")] = "fp32,bf16",
    seconds: Annotated[float, typer.Option(help="Of each measurement, after three frames of warm-up.")] = 3.0,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
) -> None:
    """Compare the eight variants of table 2 with the paper."""
    console = Console(stderr=json_output == "-", width=None if sys.stdout.isatty() else 150)
    found: list[dict[str, Any]] = []
    if measure_on is not None:
        chosen, dtypes = choices(protocols, PROTOCOLS, "--protocols"), choices(dtype, tuple(DTYPES), "--dtype")
        device = resolve_device(measure_on)
        for name in dtypes:
            for entry in measure(device, name, chosen, seconds):
                found.append(entry)
                if store is not None:  # each at once: an interrupted run keeps what it has
                    keep([entry], store)
    rows = [count_row(variant, stored_fps(variant)) for variant in VARIANTS]
    if found and store is None:
        for variant, row in zip(VARIANTS, rows, strict=True):
            row["fps"] = {f"{measure_on} now": fps_of(variant, found)}
    write_rows(rows, json_output)
    if markdown is not None:
        markdown.write_text(table2_report.markdown(rows))
    if store is not None:
        kept = [count_row(variant, stored_fps(variant, store.parent)) for variant in VARIANTS]
        table2_report.plot(kept, store.name, store / "table2.png")
        (store / "table2.md").write_text(table2_report.markdown(kept, store.name, stored(store), "table2.png"))
    console.print(terminal_table("Table 2: thop's convention beside the paper's digits", *table2_report.table(rows)))
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def keep(measurements: list[dict[str, Any]], store: Path) -> None:
    """Put measurements of this machine into STORE/table2.json in place of earlier ones of the same network, protocol and dtype."""
    keys = ("fda", "position", "protocol", "dtype")
    new = {tuple(entry[key] for key in keys) for entry in measurements}
    kept = [entry for entry in stored(store) if tuple(entry[key] for key in keys) not in new]
    kept += [entry | {"machine": machine()} for entry in measurements]
    store.mkdir(parents=True, exist_ok=True)
    (store / "table2.json").write_text(json.dumps({"measurements": kept}, indent=1) + "\n")


if __name__ == "__main__":
    run_function(main)
