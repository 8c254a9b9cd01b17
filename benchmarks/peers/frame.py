"""One frame's network in other engines on the CPU: PyTorch eager and compiled, ONNX Runtime, OpenVINO, and PyTorch's plain OSTrack.

Every peer computes the public formulation (N x N matrices) of the same weights on the same images; exports use integer token indices.
OpenVINO's int8 model is made from the same export by NNCF, its toolkit for that. A peer's call begins at both images; our native network's at the
encoded template and the region's patches, already cut and cast, as `init` and the crop leave them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conformance import golden
from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.export.onnx import OUTPUTS, export_onnx, inputs_of
from engine.runners.choice import make_runner
from engine.runners.cpu.runner import CpuRunner
from engine.runners.protocol import DTYPES
from engine.weights.io import Weights

NAMES = ("eager", "compiled", "onnxruntime", "openvino", "openvino-int8", "ostrack")
_CALIBRATION_IMAGES = 8


@dataclasses.dataclass
class Answer:
    """What an implementation found: the score map [F, F] and the tokens that survive, ascending."""

    score_map: Tensor
    kept_tokens: Tensor


@dataclasses.dataclass
class Implementation:
    """`run` computes one frame; `answer` computes it and tells the result. `same_network` is false for a network without FDA."""

    impl: str
    dtype: str
    run: Callable[[], object]
    answer: Callable[[], Answer]
    same_network: bool = True


def patch_rows(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalised image [1, 3, S, S] -> rows of 16 x 16 patches [(S / 16)^2, 768]."""
    return golden.patch_rows(image)[0].to(dtype)


def ours(weights: Weights, template: Tensor, search: Tensor, dtype: str, impl: str = "ours") -> Implementation:
    """The engine's own choice for this dtype: the native network, or PyTorch around our attention kernel."""
    runner = make_runner(weights, "cpu", dtype)
    if not isinstance(runner, CpuRunner):
        return dataclasses.replace(torch_network(weights, template, search, dtype, "auto"), impl=impl)
    network = runner.network
    encoded = network.encode_template(patch_rows(template, network.dtype))
    network.patches.copy_(patch_rows(search, network.dtype))

    def answer() -> Answer:
        network.run(encoded)
        return Answer(network.head.score().clone(), network.survivors[-1])

    return Implementation(impl, dtype, lambda: network.run(encoded), answer)


def torch_network(
    weights: Weights, template: Tensor, search: Tensor, dtype: str, backend: str = "reference", compiled: bool = False
) -> Implementation:
    """PyTorch, eager or compiled by inductor."""
    network = weights.model(backend)
    call = torch.compile(network) if compiled else network

    def run() -> tuple[Tensor, Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", DTYPES[dtype], enabled=dtype != "fp32"):
            prediction = call(template, search)
            return prediction.score_map.float(), prediction.survivors[-1]

    def answer() -> Answer:
        score, kept = run()
        return Answer(score[0, 0].clone(), kept[0])

    return Implementation("compiled" if compiled else "eager", dtype, run, answer)


def exported(path: Path, inputs: dict[str, NDArray[np.float32]], runtime: str, dtype: str, threads: int) -> Implementation:
    """A runtime on the exported file. ConfigError if it is not installed."""
    session, dtype = _session(path, runtime, dtype, threads)

    def run() -> list[NDArray[np.generic]]:
        return session(inputs)

    def answer() -> Answer:
        score, _, _, kept = run()
        return Answer(torch.from_numpy(np.array(score, np.float32))[0, 0], torch.from_numpy(np.array(kept))[0])

    return Implementation(runtime, dtype, run, answer)


Session = Callable[[dict[str, NDArray[np.float32]]], list[NDArray[np.generic]]]


def _session(path: Path, runtime: str, dtype: str, threads: int) -> tuple[Session, str]:
    """A function from inputs to outputs, and the dtype that it really computes in: OpenVINO takes float32 where bf16 cannot be had."""
    try:
        if runtime == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return lambda inputs: session.run(list(OUTPUTS), inputs), dtype
        import openvino
    except ImportError as error:
        raise ConfigError(f"peer {runtime} is not installed: pip install 'esat-engine[peers]'") from error
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if dtype == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def run(inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.generic]]:
        result = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [result[name] for name in OUTPUTS]

    real = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]
    return run, dtype if dtype == "int8" else real


def quantise(path: Path, config: ModelConfig, target: Path) -> None:
    """Write the exported model with weights and activations in int8, calibrated on drawn images, as OpenVINO's .xml and .bin.

    ConfigError if NNCF is not installed.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise ConfigError("peer openvino-int8 is not installed: pip install 'esat-engine[peers]'") from error
    drawn = (golden.draw_images(config.template_size, config.search_size, seed) for seed in range(_CALIBRATION_IMAGES))
    data = [_arrays(config, *images) for images in drawn]
    model = nncf.quantize(
        openvino.Core().read_model(path),
        nncf.Dataset(data),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(data),
    )
    openvino.save_model(model, target)


def _arrays(config: ModelConfig, template: Tensor, search: Tensor) -> dict[str, NDArray[np.float32]]:
    return {name: value.numpy() for name, value in inputs_of(config, template, search).items()}


def build(
    names: list[str], weights: Weights, template: Tensor, search: Tensor, threads: int, folder: Path, dtypes: Sequence[str] = ("fp32",)
) -> list[Implementation]:
    """The named peers on one model, in the floating dtypes that this machine has, the fastest first.

    The export is written into `folder`, or read from there if an earlier run left it.
    """
    built = []
    inputs = _arrays(weights.config, template, search)
    path = folder / f"{weights.config.name}.onnx"
    if {"onnxruntime", "openvino", "openvino-int8"} & set(names) and not path.exists():
        export_onnx(weights, path)
    for name in names:
        if name == "eager":
            built += [torch_network(weights, template, search, dtype) for dtype in dtypes]
        elif name == "compiled":
            built.append(torch_network(weights, template, search, dtypes[0], compiled=True))
        elif name == "onnxruntime":
            built.append(exported(path, inputs, name, "fp32", threads))
        elif name == "openvino":
            built += [exported(path, inputs, name, dtype, threads) for dtype in dtypes]
        elif name == "openvino-int8":
            int8 = path.with_name(f"{path.stem}-int8.xml")
            if not int8.exists():
                quantise(path, weights.config, int8)
            built.append(exported(int8, inputs, "openvino", "int8", threads))
        elif name == "ostrack":
            plain = dataclasses.replace(weights, config=weights.config.replace(alpha=0.0, beta=0.0))
            found = torch_network(plain, template, search, dtypes[0])
            built.append(dataclasses.replace(found, impl="ostrack", same_network=False))
    return built
