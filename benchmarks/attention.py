"""Force-directed attention against its peers, interleaved in one process, each with its accuracy checked first.

    python -m benchmarks.attention [--device cpu] [--dtype fp32,bf16] [--tokens 720,548,427,343] [--batch 1] [--json FILE|-] [--plot FILE]

`sdpa` is plain attention without forces, the others compute equations 5-7. Inputs `near` are those on which the attraction matters
(k = permuted q + noise, alpha = 1, delta = 0.02). Ours has to meet the error budget of `esat_kernels.testing`; peers may have eight times its
maximum, because PyTorch rounds scores to bf16; a dropped term breaks it tenfold. What fails has no time. Ratios hold within one run only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.harness import Timing, choices, interleaved, machine, numbers, write_rows
from engine.cli.exits import run_function
from engine.errors import ConfigError
from esat_kernels import backends, fda_attention, testing
from esat_kernels.attention import native
from esat_kernels.attention.common import Scores

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INPUTS = ("normal", "near")
IMPLS = ("ours", "eager", "compiled", "sdpa", "flex")
HEADS, HEAD_DIM = 12, 64
_PEER_EXCESS = 8.0
Row = dict[str, Any]


def eager(q: Tensor, k: Tensor, v: Tensor, alpha: float, beta: float, delta: float, scale: float) -> Tensor:
    """Equations 5-7 as one writes them in PyTorch: products in the inputs' dtype, the rest in float32."""
    product = (q @ k.transpose(-1, -2)).float()
    q_norm, k_norm = q.float().square().sum(-1, keepdim=True), k.float().square().sum(-1).unsqueeze(-2)
    r = delta * (q_norm + k_norm - 2 * product).clamp(min=0)
    return torch.softmax(scale * product + alpha * torch.exp(-r) - beta * r, -1).to(v.dtype) @ v


def _flex(case: testing.Case) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    alpha, beta, delta, scale = case.constants.values()

    def run() -> Tensor:
        q_norm, k_norm = case.q.float().square().sum(-1), case.k.float().square().sum(-1)

        def forces(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            r = delta * (q_norm[b, h, i] + k_norm[b, h, j] - 2 / scale * score)
            return score + alpha * torch.exp(-r) - beta * r

        return compiled(case.q, case.k, case.v, score_mod=forces, scale=scale)

    return run


def build(impl: str, case: testing.Case) -> Callable[[], Tensor]:
    """A function without arguments that computes the attention of `case` by `impl`."""
    q, k, v = case.q, case.k, case.v
    if impl == "ours":
        return lambda: fda_attention(q, k, v, **case.constants)
    if impl == "eager":
        return lambda: eager(q, k, v, **case.constants)
    if impl == "compiled":
        compiled = torch.compile(eager, dynamic=False)
        return lambda: compiled(q, k, v, **case.constants)
    if impl == "flex":
        return _flex(case)
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=case.scale)


class Judge:
    """Errors of an implementation on one case; the float64 oracles are computed once."""

    def __init__(self, case: testing.Case) -> None:
        cases = {False: case, True: replace(case, alpha=0.0, beta=0.0)}
        self._expected = {plain: (testing.yardstick(each), testing.oracle(each)[0]) for plain, each in cases.items()}

    def verify(self, impl: str, out: Tensor) -> tuple[float, str | None]:
        """The largest error, and why it is too large (None if it is not)."""
        budget = testing.compare(out, *self._expected[impl == "sdpa"])
        error = budget.max_error
        if impl == "ours":
            return error, None if budget.ok else f"outside the error budget: {budget}"
        return error, None if budget.excess <= _PEER_EXCESS else f"error {error:.2g} where {budget.max_allowed:.2g} is allowed"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def rows_of(case: testing.Case, labels: Row, impls: list[str], seconds: float) -> list[Row]:
    """Check and time all implementations on one case. A peer that cannot run or fails its check is a row without times and with the reason."""
    runs: dict[str, Callable[[], Tensor]] = {}
    rows: dict[str, Row] = {}
    judge = Judge(case)
    torch._dynamo.reset()
    for impl in impls:
        row: Row = {"impl": impl, "backend": _backend(impl, labels["device"]), **labels, "median_us": None, "p99_us": None}
        rows[impl] = row | {"ratio_to_sdpa": None, "ratio_to_ours": None, "max_error": None, "ok": False, "reason": None}
        try:
            run = build(impl, case)
            error, reason = judge.verify(impl, run())
        except Exception as failure:
            if impl == "ours":
                raise
            rows[impl]["reason"] = _first_line(failure)
            continue
        rows[impl] |= {"max_error": error, "ok": reason is None, "reason": reason}
        if reason is None:
            runs[impl] = run
    timings = interleaved(runs, seconds)
    for impl, timing in timings.items():
        rows[impl] |= {"median_us": timing.median_us, "p99_us": timing.p99_us, "calls": timing.calls}
        rows[impl] |= {f"ratio_to_{base}": _ratio(timing, timings.get(base)) for base in ("sdpa", "ours")}
    if "ours" in rows and rows["ours"]["backend"] == "cpu":
        counted = native.forward_counted(case.q, case.k, case.v, case.forces, Scores(), with_lse=False)[3]
        rows["ours"] |= dict(zip(("skipped_blocks", "blocks", "redone_rows"), counted, strict=True))
    return list(rows.values())


def _ratio(timing: Timing, base: Timing | None) -> float | None:
    return None if base is None else timing.median_us / base.median_us


def _backend(impl: str, device: str) -> str:
    if impl != "ours":
        return "torch"
    return "cpu" if device == "cpu" and backends()["cpu"] is None else "auto"


def _table(rows: list[Row]) -> Table:
    table = Table("inputs", "dtype", "tokens", "impl", "median us", "p99 us", "/ sdpa", "/ ours", "max error", "note")
    for row in rows:
        figures = [f"{row[name]:.{digits}f}" if row[name] is not None else "" for name, digits in _FIGURES]
        error = "" if row["max_error"] is None else f"{row['max_error']:.1e}"
        skipped = f"{row['skipped_blocks']} of {row['blocks']} blocks without attraction" if row.get("blocks") else ""
        table.add_row(row["inputs"], row["dtype"], str(row["tokens"]), row["impl"], *figures, error, row["reason"] or skipped)
    return table


_FIGURES = (("median_us", 0), ("p99_us", 0), ("ratio_to_sdpa", 2), ("ratio_to_ours", 1))


def plot(rows: list[Row], path: Path) -> None:
    """Medians over the number of tokens, one panel for each dtype and kind of input."""
    panels = list(dict.fromkeys((row["dtype"], row["inputs"]) for row in rows))
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for impl in IMPLS:
            points = [
                (r["tokens"], r["median_us"]) for r in rows if (r["dtype"], r["inputs"]) == panel and r["impl"] == impl and r["median_us"]
            ]
            if points:
                axis.plot(*zip(*sorted(points), strict=True), marker="o", label=impl, linewidth=2.5 if impl == "ours" else 1)
        axis.set(title=f"{panel[0]}, {panel[1]} inputs", xlabel="tokens", yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("median, us")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"of {', '.join(DTYPES)}, with commas")] = "bf16,fp32",
    tokens: Annotated[str, typer.Option(help="tokens, with commas")] = "720,548,427,343",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    inputs: Annotated[str, typer.Option(help=f"of {', '.join(INPUTS)}, with commas")] = ",".join(INPUTS),
    impls: Annotated[str, typer.Option(help=f"of {', '.join(IMPLS)}, with commas")] = ",".join(IMPLS),
    seconds: Annotated[float, typer.Option(help="of timing for each size")] = 1.5,
    json_output: Annotated[str | None, typer.Option("--json", help="JSON lines to this file, - for standard output")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="picture of the medians")] = None,
) -> None:
    """Time force-directed attention and its peers."""
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ConfigError(f"--device must be cpu, or cuda where there is one, got {device!r}")
    kinds, names = choices(inputs, INPUTS, "--inputs"), choices(impls, IMPLS, "--impls")
    description = machine()
    rows: list[Row] = []
    for name in choices(dtype, tuple(DTYPES), "--dtype"):
        for kind in kinds:
            for count in numbers(tokens, "--tokens"):
                case = testing.make_case(kind, batch, HEADS, count, HEAD_DIM, DTYPES[name], seed=count, strided=True)
                case = replace(case, q=case.q.to(device), k=case.k.to(device), v=case.v.to(device))
                labels = {"tokens": count, "batch": batch, "dtype": name, "inputs": kind, "device": device}
                with torch.inference_mode():
                    rows += rows_of(case, labels, names, seconds)
    rows = [row | {"machine": description} for row in rows]
    write_rows(rows, json_output)
    if plot_file is not None:
        plot(rows, plot_file)
    Console(stderr=json_output == "-").print(_table(rows))
    if not all(row["ok"] for row in rows if row["impl"] == "ours"):
        sys.exit(1)


if __name__ == "__main__":
    run_function(main)
