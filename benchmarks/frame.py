"""One frame on this machine's CPU: our engine and its peers, interleaved in one process, each with its accuracy checked first.

    python -m benchmarks.frame [--model esat-384] [--peers all] [--json FILE|-] [--store DIR]

Scopes: `network` is a peer's call on normalised images in memory, and our native network's on what `init` and the crop leave it: the encoded
template, and the region's patches, already cut and cast. `tracker` is crop + network + decode on frames of 1920 x 1080. The weights are drawn at
random: the time does not depend on them. A row that fails its check has no time.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness import rounds, stopwatch, write_rows
from benchmarks.peers.frame import NAMES, Answer, Implementation, build, ours
from benchmarks.roofline import roofline
from conformance import golden
from engine.cli.exits import run_function
from engine.cli.machine import cpu_name
from engine.config import preset
from engine.errors import ConfigError
from engine.runners.choice import make_runner
from engine.runners.cpu.runner import CpuRunner, unsupported
from engine.weights.io import Weights

_SEED = 3
_GAIN = 1.0
# Against PyTorch in fp32: correlation of the score maps and the share of kept tokens that agree. A wrong kernel falls to 0.
_LEAST = {"fp32": (0.9999, 0.99), "bf16": (0.95, 0.9), "int8": (0.9, 0.9)}
_BOX = (900.0, 500.0, 120.0, 90.0)


def check(answer: Answer, reference: Answer, dtype: str) -> tuple[bool, float, float]:
    """Whether an answer is near enough, the correlation of the score maps, and the overlap of the kept tokens."""
    pair = torch.stack([answer.score_map.flatten().double(), reference.score_map.flatten().double()])
    correlation = float(torch.corrcoef(pair)[0, 1])
    overlap = len(set(answer.kept_tokens.tolist()) & set(reference.kept_tokens.tolist())) / reference.kept_tokens.numel()
    least_correlation, least_overlap = _LEAST[dtype]
    return correlation >= least_correlation and overlap >= least_overlap, correlation, overlap


def tracker_scope(weights: Weights) -> list[Implementation]:
    """Crop + network + decode: our engine, and PyTorch in fp32 on the reference kernels."""
    frame = np.random.default_rng(_SEED).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    built = []
    runners = [("ours", make_runner(weights, "cpu", dtype)) for dtype in ("auto", "int8") if dtype in ("auto", *_dtypes(weights))]
    for impl, runner in (*runners, ("eager", make_runner(weights, "cpu", "fp32", "reference"))):
        template = runner.encode_template(frame, _BOX, True)

        def run(runner: Any = runner, template: Any = template) -> object:
            return runner.observe(frame, [_BOX], [template], True)

        def answer(run: Any = run) -> Answer:
            seen = run().targets[0]
            return Answer(torch.tensor([seen.score, seen.weighted_score]), torch.from_numpy(np.array(seen.kept_tokens)))

        built.append(Implementation(impl, runner.dtype, run, answer))
    return built


def stages(weights: Weights, seconds: float, dtype: str) -> dict[str, float]:
    """Median milliseconds of each kind of work in our network; empty where the native engine does not run."""
    runner = make_runner(weights, "cpu", dtype)
    if not isinstance(runner, CpuRunner):
        return {}
    template = runner.encode_template(np.zeros((200, 200, 3), np.uint8), (50, 50, 60, 60), True)
    collected: dict[str, list[float]] = defaultdict(list)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(collected) == 0:
        spent: dict[str, float] = defaultdict(float)
        last = time.perf_counter()

        def mark(stage: str, spent: dict[str, float] = spent) -> None:
            nonlocal last
            now = time.perf_counter()
            spent[stage] += 1e3 * (now - last)
            last = now

        runner.network.run(template, mark)
        for stage, value in spent.items():
            collected[stage].append(value)
    return {stage: float(np.median(values)) for stage, values in collected.items()}


def _dtypes(weights: Weights) -> list[str]:
    """What our engine computes in on this machine, as a rule the fastest first."""
    return [dtype for dtype in ("int8", "bf16", "fp32") if unsupported(weights.config, dtype) is None] or ["fp32"]


def measure(weights: Weights, names: list[str], seconds: float, folder: Path) -> list[dict[str, Any]]:
    """All rows of both scopes."""
    config, threads = weights.config, torch.get_num_threads()
    template, search = golden.draw_images(config.template_size, config.search_size, _SEED)
    plain = Weights(config.replace(alpha=0.0, beta=0.0), weights.state_dict, {}, weights.path)
    dtypes = _dtypes(weights)
    network = [ours(weights, template, search, dtype) for dtype in dtypes]
    no_force = ours(plain, template, search, dtypes[0], "ours:alpha=beta=0")
    no_force.same_network = False
    peers = build(names, weights, template, search, threads, folder, [dtype for dtype in dtypes if dtype != "int8"])
    reference = ours(weights, template, search, "fp32").answer()
    rows = _rows("network", [*network, no_force, *peers], reference, seconds)
    rows += _rows("tracker", tracker_scope(weights), None, seconds / 3)
    extra = {"model": config.name, "device": "cpu", "threads": threads}
    return [{**row, **extra} for row in rows]


def _rows(scope: str, built: list[Implementation], reference: Answer | None, seconds: float) -> list[dict[str, Any]]:
    """Rows of one scope; `ratio_to_ours` is to our row of the same dtype, None without one."""
    rows: list[dict[str, Any]] = []
    for one in built:
        row: dict[str, Any] = {"impl": one.impl, "scope": scope, "dtype": one.dtype, "ok": True}
        rows.append(row)
        try:
            answer = one.answer()
        except RuntimeError as error:  # a peer that cannot run this network here, such as a compiler without its tools
            row |= {"ok": False, "error": str(error).splitlines()[0] if str(error) else type(error).__name__}
            continue
        if reference is not None and one.same_network:
            row["ok"], row["score_correlation"], row["kept_overlap"] = check(answer, reference, one.dtype)
    measured = [index for index, row in enumerate(rows) if row["ok"]]
    clocks = {str(index): stopwatch(built[index].run, before=1) for index in measured}
    for index, microseconds in rounds(clocks, seconds, least=5).items():
        times = [value / 1e3 for value in microseconds]
        median = float(np.median(times))
        rows[int(index)] |= {
            "median_ms": median,
            "p99_ms": float(np.percentile(times, 99)),
            "min_ms": min(times),
            "rounds": len(times),
            "fps": 1e3 / median,
        }
    mine = {row["dtype"]: row["median_ms"] for row in rows if row["impl"] == "ours" and row["ok"]}
    for row in rows:
        if "median_ms" in row and mine:
            row["ratio_to_ours"] = row["median_ms"] / mine[row["dtype"]] if row["dtype"] in mine else None
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"One frame, {rows[0]['model']}, {rows[0]['threads']} threads")
    for name in ("scope", "impl", "dtype", "median ms", "p99 ms", "frames/s", "time / ours", "ok"):
        table.add_column(name, justify="left" if name in ("scope", "impl", "dtype") else "right")
    digits = {"median_ms": 1, "p99_ms": 1, "fps": 1, "ratio_to_ours": 2}
    for row in rows:
        times = ["" if row.get(key) is None else f"{row[key]:.{places}f}" for key, places in digits.items()]
        table.add_row(row["scope"], row["impl"], row["dtype"], *times, "ok" if row["ok"] else "[bold red]inaccurate[/]")
    return table


def _stage_table(spent: dict[str, dict[str, float]], rooflines: dict[str, Any]) -> Table:
    table = Table(title="Our network by stage")
    for name in ("dtype", "stage", "ms", "GFLOP", "GFLOP/s", "share of the bound"):
        table.add_column(name, justify="left" if name in ("dtype", "stage") else "right")
    for dtype, found in spent.items():
        for stage, value in found.items():
            row = rooflines[dtype]["stages"].get(stage)
            rest = (
                (f"{row['gflop']:.1f}", f"{row['gflop_per_s']:.0f}", "" if row["share"] is None else f"{row['share']:.0%}")
                if row
                else ("", "", "")
            )
            table.add_row(dtype, stage, f"{value:.2f}", *rest)
    return table


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Medians of the network scope as bars, ours in blue."""
    shown = [row for row in rows if row["scope"] == "network" and "median_ms" in row]
    figure = Figure(figsize=(7, 0.6 + 0.35 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if row["impl"].startswith("ours") else "tab:gray" for row in shown]
    axes.barh([f"{row['impl']} {row['dtype']}" for row in shown], [row["median_ms"] for row in shown], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel(f"ms per frame, network only, {shown[0]['model']}, {shown[0]['threads']} threads")
    figure.savefig(path, dpi=110)


def _weights(model: str) -> Weights:
    config = preset(model)
    return golden.draw_weights(config, _SEED, _GAIN, Path(model))


def main(
    model: Annotated[str, typer.Option(help="A preset.")] = "esat-384",
    device: Annotated[str, typer.Option(help="cpu; GPUs have benchmarks of their own.")] = "cpu",
    peers: Annotated[str, typer.Option(help=f"all, none, or some of {', '.join(NAMES)}, with commas.")] = "all",
    threads: Annotated[int | None, typer.Option(help="Threads of every implementation; all cores unless given.")] = None,
    seconds: Annotated[float, typer.Option(help="Of measuring, for the network's scope.")] = 40.0,
    json_output: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="JSON lines to this file, - for standard output.")
    ] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="The device's folder under benchmarks/results, to keep it.")] = None,
    work: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps the exported model for the next run.")] = None,
) -> None:
    """Compare our frame with its peers'."""
    if device != "cpu":
        raise ConfigError(f"--device must be cpu here, got {device!r}")
    names = list(NAMES) if peers == "all" else [] if peers == "none" else peers.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise ConfigError(f"--peers must be all, none or some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if threads is not None:
        torch.set_num_threads(threads)
    weights = _weights(model)
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(weights, names, seconds, work or Path(temporary))
    spent = {dtype: found for dtype in _dtypes(weights) if (found := stages(weights, seconds / 10, dtype))}
    rooflines = {dtype: roofline(weights, dtype, found) for dtype, found in spent.items()}
    write_rows(rows, json_output)
    console = Console(stderr=json_output == "-")
    console.print(_table(rows))
    if spent:
        console.print(_stage_table(spent, rooflines))
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
        about = {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__, "load_before": os.getloadavg()}
        name = f"frame-{model}-{torch.get_num_threads()}threads"
        (store / f"{name}.json").write_text(
            json.dumps({"about": about, "rows": rows, "stages_ms": spent, "roofline": rooflines}, indent=1) + "\n"
        )
        plot(rows, store / f"{name}.png")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_function(main)
