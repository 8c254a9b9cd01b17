"""The launches of a captured frame, in their order, and a budget of its time from the shapes: `python -m benchmarks.nodes esat-384`.

The engine's own code runs on tensors without values, as a capture would run it; a launch of one of our kernels is noted instead of made, and what
PyTorch launches is told from its operators. Triton has to be installed; a GPU is not needed, and the tiles are those of a device with so many
multiprocessors that nobody has measured.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import esat_kernels
from benchmarks.macs import head_branch, tokens_after, tokens_before
from engine.config import PRESETS, ModelConfig, preset
from engine.model.network import build_model
from engine.runners.gpu.frame import FramePlan
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.gpu.streams import HostStreams
from engine.runners.protocol import DTYPES
from engine.weights.io import Weights
from esat_kernels import _triton

_MULTIPROCESSORS = 132  # of an H100 or H200
_FLOPS, _ATTENTION_US, _LAUNCH_US = 0.5 * 790e12, 6.0, 1.0  # the budget's assumptions; attention of 12 heads over 720 tokens
_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh")
# What PyTorch makes of an operator on CUDA, where it is not one launch: a bias is added to a convolution, or laid under a product, by its own.
_SEVERAL = {"convolution": 2, "baddbmm": 2, "addmm": 1}


class Node(NamedTuple):
    """One launch: the part of the frame, and the kernel's name, or PyTorch's operator."""

    stage: str
    kernel: str


class _Recorder(TorchDispatchMode):
    """Notes launches; operators of ours run as Python, so that the launches inside are seen."""

    def __init__(self, backend: str):
        super().__init__()
        self.nodes: list[Node] = []
        self.stages: list[str] = []
        self._backend = backend

    def note(self, kernel: str, count: int = 1) -> None:
        self.nodes += [Node(self.stages[-1] if self.stages else "frame", kernel)] * count

    def _note_cuda_attention(self, call: dict[str, Any]) -> None:
        """What `csrc/attention/attention_sm80.cu` launches: |k|^2 where nobody has made it, the attention, and the scores for elimination."""
        if call.get("key_norms") is None and (call["alpha"] > 0 or call["beta"] > 0):
            self.note("key norms (CUDA)")
        self.note("attention (CUDA)")
        if call["template_token"] >= 0:
            self.note("scores (CUDA)")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """In place of torch.profiler.record_function, with which the engine names its parts."""
        self.stages.append(name)
        yield
        self.stages.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        namespace, name = func.namespace, func._schema.name.split("::")[1]
        if namespace == "esat" and name == "fda_attention" and self._backend == "cuda":
            self._note_cuda_attention(
                {parameter.name: value for parameter, value in zip(func._schema.arguments, args, strict=False)} | kwargs
            )
        elif namespace == "esat":
            operator = torch._library.custom_ops.OPDEFS[f"esat::{name}"]
            with self:
                return operator._init_fn(*args, **kwargs)
        elif namespace != "prim" and not func.is_view and name not in _ALLOCATIONS and name != "detach":
            self.note(name, _SEVERAL.get(name, 1))
        return func(*args, **kwargs)


@contextlib.contextmanager
def _noted(recorder: _Recorder, multiprocessors: int) -> Iterator[None]:
    """Triton's launches are noted, for a device of so many multiprocessors."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        recorder.note(self.fn.__name__)

    with contextlib.ExitStack() as stack:
        for kind in (JITFunction, InterpretedFunction):
            stack.enter_context(mock.patch.object(kind, "run", run))
        stack.enter_context(mock.patch.object(_triton, "interpreted", return_value=True))
        stack.enter_context(mock.patch.object(_triton, "multiprocessors", return_value=multiprocessors))
        stack.enter_context(mock.patch.object(esat_kernels.attention.triton, "multiprocessors", return_value=multiprocessors))
        stack.enter_context(mock.patch.object(esat_kernels.attention.cuda, "unsupported", return_value=None))
        stack.enter_context(mock.patch("engine.runners.gpu.network.record_function", recorder.stage))
        stack.enter_context(mock.patch("torch.profiler.record_function", recorder.stage))
        yield


def frame_nodes(
    config: ModelConfig,
    targets: tuple[int, ...] = (1,),
    dtype: str = "bf16",
    backend: str = "cuda",
    multiprocessors: int = _MULTIPROCESSORS,
    beside: bool = False,
) -> list[Node]:
    """The launches of `FramePlan.step` for so many targets in each video stream, in order; beside: with their second regions."""
    recorder = _Recorder(backend)
    with _noted(recorder, multiprocessors), FakeTensorMode(), torch.no_grad():
        weights = Weights(config, build_model(config, "reference").state_dict(), {}, Path())
        network = GpuNetwork(weights, torch.device("cpu"), DTYPES.get(dtype, torch.bfloat16), Kernels.of(backend), dtype == "fp8")
        plan = FramePlan(network, HostStreams(), targets, beside=beside)
        with recorder:
            plan.step(0, True, beside)
    return recorder.nodes


def table(nodes: list[Node]) -> str:
    """A Markdown table: parts of the frame in order of their first launch, their kernels, how many launches."""
    counts = collections.Counter(nodes)
    lines = ["| part | launches | of |", "| -- | -- | -- |"]
    for stage in dict.fromkeys(node.stage for node in nodes):
        kernels = {node.kernel: count for node, count in counts.items() if node.stage == stage}
        each = ", ".join(f"{count} {kernel}" if count > 1 else kernel for kernel, count in kernels.items())
        lines.append(f"| {stage} | {sum(kernels.values())} | {each} |")
    return "\n".join([*lines, f"| sum | {len(nodes)} |  |"])


def budget(config: ModelConfig, launches: int, dtype: str = "bf16") -> dict[str, tuple[float, float]]:
    """GMAC and microseconds of a frame's parts at batch 1, from the model's shapes: an estimate, no measurement. In fp8 the MLP takes half."""
    dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
    before, behind = tokens_before(config), [*tokens_after(config)[:-1], config.search_tokens_per_layer()[-1]]
    products = {
        "q, k, v": 3 * dim**2 * (config.num_search + sum(before[1:])),
        "output projection": dim**2 * sum(behind),
        "MLP": 2 * dim * hidden * sum(behind),
        "head": 3 * head_branch(config, config.num_search) + 5 * config.num_search * config.head_channels // 8,
        "patch embedding": config.num_search * 3 * config.patch_size**2 * dim,
    }
    found = {name: (macs / 1e9, 2e6 * macs / _FLOPS) for name, macs in products.items()}
    if dtype == "fp8":
        found["MLP"] = (found["MLP"][0], found["MLP"][1] / 2)
    found["attention"] = (
        2 * dim * sum(count**2 for count in before) / 1e9,
        _ATTENTION_US * sum(count**2 for count in before) / 720**2 * config.heads / 12,
    )
    found[f"starts and ends of {launches} kernels"] = (0.0, _LAUNCH_US * launches)
    return found


def budget_table(found: dict[str, tuple[float, float]]) -> str:
    """`budget` in Markdown, with its sum."""
    lines = ["|  | GMAC | us |", "| -- | -- | -- |"]
    lines += [f"| {name} | {gmac:.1f} | {us:.0f} |" if gmac else f"| {name} |  | {us:.0f} |" for name, (gmac, us) in found.items()]
    gmac, us = (sum(values) for values in zip(*found.values(), strict=True))
    return "\n".join([*lines, f"| sum | {gmac:.1f} | {us:.0f}, or {1e6 / us:.0f} frames/s |"])


def main() -> None:
    parser = argparse.ArgumentParser(description="The launches of a captured frame.")
    parser.add_argument("model", nargs="?", default="esat-384", choices=PRESETS)
    parser.add_argument("--targets", type=int, nargs="+", default=[1], help="in each video stream")
    parser.add_argument("--dtype", default="bf16", choices=(*DTYPES, "fp8"))
    parser.add_argument("--backend", default="cuda", choices=("cuda", "triton"), help="the attention's")
    parser.add_argument("--multiprocessors", type=int, default=_MULTIPROCESSORS)
    parser.add_argument("--beside", action="store_true", help="a frame with a lost target")
    parser.add_argument("--order", action="store_true", help="every launch, in order")
    options = parser.parse_args()
    nodes = frame_nodes(
        preset(options.model), tuple(options.targets), options.dtype, options.backend, options.multiprocessors, options.beside
    )
    if options.order:
        for index, (stage, group) in enumerate(itertools.groupby(nodes, key=lambda node: node.stage)):
            print(f"{index + 1:3} {stage}: {', '.join(node.kernel for node in group)}")
    print(table(nodes))
    if options.targets == [1] and not options.beside:
        print(
            "\nOne frame at half of the 790 TFLOP/s of a large bf16 product on an H200, 6 us for attention over 720 tokens, 1 us a launch:\n"
        )
        print(budget_table(budget(preset(options.model), len(nodes), options.dtype)))


if __name__ == "__main__":
    main()
