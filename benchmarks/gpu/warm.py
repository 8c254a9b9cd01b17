"""Compiles the Triton kernels that other parts launch, in several processes: one after the other they would take longer than all measurements.

Each process goes through the same work on the device, but launches nothing: it compiles its share of the launches, and Triton keeps on disk what it
compiled. What fails here fails again in its own part, which then says more.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.gpu.children import run_together
from benchmarks.gpu.parts import TRITON_CACHE, read, seconds_left, write

if TYPE_CHECKING:
    import torch  # which takes seconds: the process that starts the others does without it

WORKERS = 14


def _kind(value: object) -> str:
    """As much of an argument as Triton compiles in."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {value.data_ptr() % 16 == 0}"
    return f"{value == 1} {value % 16 == 0}" if isinstance(value, int) else type(value).__name__


@contextlib.contextmanager
def compiling(share: Callable[[str], bool]) -> Iterator[list[str]]:
    """Launches compile their kernel if it is within the `share`, and compute nothing; fresh memory is zero, so that what reads it finds valid
    positions. Gives what was compiled: the kernel's name and the arguments that are compiled in.
    """
    import torch
    from triton.runtime.jit import JITFunction

    found: list[str] = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        name = f"{self.fn.__name__} {[_kind(value) for value in arguments]} {sorted(options.items())}"
        if name not in found and share(name):
            try:
                compiled = run(self, *arguments, grid=grid, warmup=True, **options)
                getattr(compiled, "run", None)  # makes the launcher, which is compiled too
            except Exception as error:  # noqa: BLE001  other kernels are compiled all the same
                print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            found.append(name)

    def zeroed(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *arguments, **options: make(*arguments, **options).zero_()

    with (
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(torch.Tensor, "new_empty", zeroed(torch.Tensor.new_empty)),
        mock.patch.object(torch, "empty", zeroed(torch.empty)),
        mock.patch.object(torch, "empty_like", zeroed(torch.empty_like)),
    ):
        yield found


def _golden(dtype: str) -> None:
    from benchmarks.gpu import golden
    from conformance.findings import Target

    for path in golden.files():
        golden.rows(path, Target("triton", dtype, "cuda"))


@functools.cache
def _network(model: str) -> Any:
    from benchmarks.gpu.frame import DEVICE, DTYPE
    from benchmarks.gpu.inputs import model_weights
    from engine.runners.gpu.network import GpuNetwork, Kernels

    return GpuNetwork(model_weights(model), DEVICE, DTYPE, Kernels.of("triton"))


def _frame(model: str, batch: int) -> None:
    from benchmarks.gpu.frame import WholeFrame

    WholeFrame(_network(model), batch).eager()


def _around_cuda(model: str, batch: int) -> None:
    """A frame whose attention is the CUDA library's, without it: the products in front of it leave the norms of the keys, which are other kernels."""
    import torch

    from engine.runners.gpu.network import GpuNetwork, Kernels

    def attend(self: GpuNetwork, qkv: torch.Tensor, with_scores: bool, norms: object) -> tuple[torch.Tensor, torch.Tensor]:
        rows, count, _ = qkv.shape
        scores = torch.zeros(rows, count - self.config.num_template if with_scores else 0, device=qkv.device)
        return torch.zeros(rows, count, self.config.dim, device=qkv.device, dtype=qkv.dtype), scores

    network = _network(model)
    own, network.kernels = network.kernels, Kernels.of("cuda")
    try:
        with mock.patch.object(GpuNetwork, "_attend", attend):
            _frame(model, batch)
    finally:
        network.kernels = own


def _frames(model: str, batch: int = 1) -> None:
    _frame(model, batch)
    _around_cuda(model, batch)


def _dependent(model: str) -> None:
    from esat_kernels import _triton

    with _triton.dependent_launches(True):
        _frames(model)


def _tiles(model: str, place: int, products: Path, dependent: bool) -> None:
    """A frame with the tiles of each problem that are this fast alone (0: the fastest), as they are launched now, and dependent if asked for."""
    from benchmarks.gpu.frame_tiles import taking
    from benchmarks.gpu.products import finalists

    found = finalists(read(products).get("rows", []))
    with taking({problem: tiles[place] for problem, tiles in found.items() if place < len(tiles)}):
        _frames(model)
        if dependent:
            _dependent(model)


def _attention() -> None:
    from benchmarks.gpu import attention

    for tokens in attention.TOKENS:
        attention.ours_triton(*attention._inputs(tokens, 1)[0])


def _products() -> None:
    from benchmarks.gpu import products

    products.compile_all()


def _fp8() -> None:
    import esat_kernels
    from benchmarks.gpu import fp8
    from esat_kernels import _triton

    if esat_kernels.fp8_unsupported(fp8.DEVICE) is None:
        for dependent in (False, True):  # with whichever tiles turn out the fastest
            with _triton.dependent_launches(dependent):
                fp8.compile_all()


def _sanitized(backend: str) -> None:
    from benchmarks.gpu import sanitize

    sanitize.calls(backend)


def jobs(group: str, folder: Path) -> dict[str, Callable[[], None]]:
    """What the kernels of a group come from, by name. folder: where the parts' files lie."""
    if group == "--frame":
        return {"frame esat-384": functools.partial(_frames, "esat-384"), "attention": _attention}
    if group == "--tiles":
        from benchmarks.gpu.products import MODELS, TRIED

        products = folder / "gpu_products.json"
        # Part `dependent` measures the first model alone.
        return {
            f"{model} {place}": functools.partial(_tiles, model, place, products, model == MODELS[0])
            for model in MODELS
            for place in range(TRIED)
        }
    others = (("ostrack-384", 1), *(("esat-s-256", batch) for batch in (1, 4, 16)), ("esat-384", 4), ("esat-384", 16))
    return {
        "products": _products,
        "fp8": _fp8,
        "dependent": functools.partial(_dependent, "esat-384"),
        **{f"frame {model} x {batch}": functools.partial(_frames, model, batch) for model, batch in others},
        **{f"golden {dtype}": functools.partial(_golden, dtype) for dtype in ("bf16", "fp16", "fp32")},
        **{f"sanitize {backend}": functools.partial(_sanitized, backend) for backend in ("triton", "frame")},
    }


def worker_of(name: str, workers: int) -> int:
    """The process that compiles this; the same in all of them."""
    return zlib.crc32(name.encode()) % workers


def work(group: str, worker: int, workers: int, folder: Path) -> int:
    """One process's share of a group."""
    code = 0
    with compiling(lambda name: worker_of(name, workers) == worker) as found:
        for name, job in jobs(group, folder).items():
            try:
                job()
            except Exception as error:  # noqa: BLE001
                print(f"{name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
                code = 1
    print(f"{len(found)} kernels", flush=True)
    return code


def main(group: str, output: Path) -> int:
    workers = max(1, min(WORKERS, (os.cpu_count() or 2) - 2))
    commands = {
        f"{n}": [sys.executable, "-m", "benchmarks.gpu.warm", "--work", group, f"{n}", f"{workers}", str(output.parent)]
        for n in range(workers)
    }
    ended = run_together(commands, seconds_left(110) - 3, {**os.environ, "OMP_NUM_THREADS": "1"})
    found = {name: {"code": one.code, "seconds": round(one.seconds, 1), "output_end": one.output[-800:]} for name, one in ended.items()}
    for name, one in found.items():
        print(f"{name}: {'stopped' if one['code'] is None else one['code']}, {one['seconds']} s: {one['output_end'][-300:].strip()}")
    good = all(one.code == 0 for one in ended.values())
    write(output, {"ok": good, "workers": found, "files": sum(1 for _ in TRITON_CACHE.rglob("*.cubin"))})
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        sys.exit(work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])))
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
