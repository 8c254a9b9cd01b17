"""One check for each kind of golden file. A check returns what it found; `parity` prints it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import esat_kernels
from conformance import golden
from conformance.findings import Finding, Target
from conformance.metrics import check_metrics
from engine import Tracker, TrackerConfig
from engine.config import ModelConfig
from engine.errors import DatasetError
from engine.evaluation.metrics import iou
from engine.model.network import Prediction
from engine.runners.choice import make_runner
from engine.runners.protocol import DTYPES
from esat_kernels.attention import reference
from esat_kernels.attention.common import Forces

# Largest differences allowed. fp32 on the reference follows the public code's own spread between float32 and float64 (8e-7);
# fused kernels sum in another order. Half precision cannot keep the eliminated set: what counts there is that it and the box stay close.
FORWARD_REFERENCE = 1e-5
FORWARD_KERNEL = 1e-4
# Relative to each tensor's largest value where that exceeds 1: scores of |q| |k| = 900 carry an fp32 rounding of 1e-5 into the exponent.
ATTENTION_FP32 = 1e-5
ATTENTION_FP64 = 1e-10
LOOP_PIXELS = 0.01
CROP_LEVELS = 1
# The golden networks' random weights amplify rounding more than trained ones: `benchmarks.accuracy` measures those.
HALF_REMOVED_OVERLAP = 0.95
HALF_BOX_IOU = 0.75
HALF_LOOP_IOU = 0.7  # of the median frame: with random weights a jump to another peak is carried along for many frames
# A half-precision kernel may err twice as much as `half_yardstick`, and its output on average 1.1 times as much.
HALF_MAX_FACTOR = 2.0
HALF_MEAN_FACTOR = 1.1


def check_forward(path: Path, content: dict[str, Any], target: Target) -> Finding:
    """Maps, box, mean features and the removed tokens of a whole forward pass."""
    spec = json.loads(str(content["spec"]))
    config = golden.model_config(spec)
    weights = golden.draw_weights(config, spec["seed"], spec["gain"], path)
    images = golden.draw_images(spec["zs"], spec["xs"], spec["seed"])
    device = torch.device(target.device)
    network = weights.model(target.backend).to(device)
    autocast = torch.autocast(device.type, DTYPES[target.dtype], enabled=target.half)
    with torch.inference_mode(), autocast:
        seen = network(*(image.to(device) for image in images))
    found = {
        "score_map": seen.score_map,
        "size_map": seen.size_map,
        "offset_map": seen.offset_map,
        "pred_box": seen.box.unsqueeze(1),
        "search_features_mean": seen.search_features.float().mean((2, 3)),
    }
    errors = {name: _max_error(value, content[name]) for name, value in found.items()}
    stages = len(config.elimination_layers)
    removed = _removed(seen.survivors, config)
    expected = [set(content[f"removed_{stage}"][0].tolist()) for stage in range(stages)]
    equal = removed == expected
    worst = max(errors.values())
    if not target.half:
        limit = FORWARD_REFERENCE if target.backend == "reference" else FORWARD_KERNEL
        return Finding(worst, equal and worst <= limit, equal, errors)
    gone, gone_expected = set().union(*removed), set().union(*expected)
    overlap = len(gone & gone_expected) / max(len(gone_expected), 1)
    expected_cell = int(content["score_map"].argmax())
    box_iou = _centre_box_iou(_box_at(seen, expected_cell), content["pred_box"])
    cell = int(seen.score_map.float().argmax())
    details = {**errors, "removed_overlap": overlap, "box_iou": box_iou, "cell_equal": cell == expected_cell}
    return Finding(worst, overlap >= HALF_REMOVED_OVERLAP and box_iou >= HALF_BOX_IOU, equal, details)


def _box_at(seen: Prediction, cell: int) -> Tensor:
    """The box [4] that the maps hold at one cell. Random weights give many peaks of almost equal height, so that rounding may choose another
    of them; what the box itself loses shows at the same cell."""
    score = torch.zeros_like(seen.score_map, dtype=torch.float32)
    score.view(-1)[cell] = 1.0
    return esat_kernels.decode_maps(score, seen.size_map.float(), seen.offset_map.float()).box[0]


def check_attention(path: Path, content: dict[str, Any], target: Target) -> Finding:
    """Output, elimination scores and gradients of one attention call; the reference also in float64."""
    spec = json.loads(str(content["spec"]))
    if target.half:
        return _attention_half(content, spec, target)
    absolute, relative, no_gradients = _attention_errors(content, spec, target, torch.float32)
    ok = max(relative.values()) <= ATTENTION_FP32
    details: dict[str, Any] = {**absolute, "max_rel_error": max(relative.values())}
    if target.backend == "reference":
        wide, wide_relative, _ = _attention_errors(content, spec, target, torch.float64)
        details["max_abs_error_fp64"] = max(wide.values())
        ok = ok and max(wide_relative.values()) <= ATTENTION_FP64
    if no_gradients is not None:
        details["gradients"] = f"not checked: {no_gradients}"
    return Finding(max(absolute.values()), ok, None, details)


def _run_attention(
    content: dict[str, Any], spec: dict[str, Any], target: Target, dtype: torch.dtype
) -> tuple[dict[str, Tensor], str | None]:
    """Output, scores and, from a backend that has a backward, gradients; else why there are none."""
    q, k, v, dout = (torch.from_numpy(content[name]).to(target.device, dtype) for name in ("q", "k", "v", "dout"))
    out, scores = esat_kernels.fda_attention_with_scores(q, k, v, backend=target.backend, **spec)
    found = {"out": out, "scores": scores}
    for tensor in (q, k, v):
        tensor.requires_grad_(True)
    try:
        out, _ = esat_kernels.fda_attention_with_scores(q, k, v, backend=target.backend, **spec)
        found |= dict(zip(("dq", "dk", "dv"), torch.autograd.grad(out, (q, k, v), dout), strict=True))
    except NotImplementedError as error:
        return found, str(error)
    return found, None


def _attention_errors(
    content: dict[str, Any], spec: dict[str, Any], target: Target, dtype: torch.dtype
) -> tuple[dict[str, float], dict[str, float], str | None]:
    """The largest error of each output, absolute, and over the larger of 1 and the largest expected value; why gradients are missing."""
    found, no_gradients = _run_attention(content, spec, target, dtype)
    if dtype is torch.float64:  # the scores are float32 by contract, whatever the input
        found.pop("scores")
    absolute = {name: _max_error(value, content[name]) for name, value in found.items()}
    relative = {name: error / max(1.0, float(np.abs(content[name]).max())) for name, error in absolute.items()}
    return absolute, relative, no_gradients


def _attention_half(content: dict[str, Any], spec: dict[str, Any], target: Target) -> Finding:
    dtype = DTYPES[target.dtype]
    found, no_gradients = _run_attention(content, spec, target, dtype)
    errors = {name: (value.cpu().double() - torch.from_numpy(content[name])).abs() for name, value in found.items()}
    allowed = {
        name: (value.double() - torch.from_numpy(content[name])).abs() for name, value in half_yardstick(content, spec, dtype).items()
    }
    over = {name: (errors[name].max() / allowed[name].max()).item() for name in errors if name in allowed}
    mean = (errors["out"].mean() / allowed["out"].mean()).item()
    scores = errors["scores"].max().item()
    details: dict[str, Any] = {"scores": scores, "mean_over_yardstick": mean}
    details |= {f"{name}_over_yardstick": value for name, value in over.items()}
    if no_gradients is not None:
        details["gradients"] = f"not checked: {no_gradients}"
    ok = max(over.values()) <= HALF_MAX_FACTOR and mean <= HALF_MEAN_FACTOR and scores <= torch.finfo(dtype).eps
    return Finding(errors["out"].max().item(), ok, None, details)


def half_yardstick(content: dict[str, Any], spec: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients of a kernel that computes in float32 and rounds to `dtype` only its inputs, what enters a second product (the
    probabilities, and dS in the backward pass), and its results."""
    q, k, v, dout = (torch.from_numpy(content[name]).to(dtype).float() for name in ("q", "k", "v", "dout"))
    alpha, beta, delta, scale = (spec[name] for name in ("alpha", "beta", "delta", "scale"))

    def rounded(value: Tensor) -> Tensor:
        return value.to(dtype).float()

    probability = torch.softmax(reference.logits(q, k, Forces(alpha, beta, delta, scale)), -1)
    out = rounded(rounded(probability) @ v)
    squared = (q * q).sum(-1, keepdim=True) + (k * k).sum(-1).unsqueeze(-2) - 2 * q @ k.transpose(-1, -2)
    g = probability * (dout @ v.transpose(-1, -2) - (dout * out).sum(-1, keepdim=True))
    force = g * (beta + alpha * torch.exp(-delta * squared.clamp(min=0)))
    product = rounded(scale * g + 2 * delta * force)
    gradients = {
        "dq": product @ k - 2 * delta * q * force.sum(-1, keepdim=True),
        "dk": product.transpose(-1, -2) @ q - 2 * delta * k * force.sum(-2).unsqueeze(-1),
        "dv": rounded(probability).transpose(-1, -2) @ dout,
    }
    return {"out": out, **{name: rounded(value) for name, value in gradients.items()}}


def check_loop(path: Path, content: dict[str, Any], target: Target) -> Finding:
    """The boxes of the tracking loop on real frames, in pixels."""
    weights_path = path.parent / str(content["weights"])
    spec = json.loads(str(golden.load(weights_path)["spec"]))
    factors = {name: float(content[name]) for name in ("search_factor", "template_factor")}
    config = golden.model_config(spec, **factors)
    weights = golden.draw_weights(config, spec["seed"], spec["gain"], weights_path)
    expected = np.asarray(content["boxes"], np.float64)
    folder = path.parent / str(content["frames"])
    frames = sorted(folder.glob("*.jpg"))[: len(expected)]
    if len(frames) < len(expected):
        raise DatasetError(f"{path}: needs {len(expected)} frames in {folder}, found {len(frames)}")
    runner = make_runner(weights, target.device, target.dtype, target.backend)
    tracker = Tracker(runner, config=TrackerConfig(color="rgb", loop="public"))
    tracker.init(golden.read_rgb(frames[0]), tuple(content["init"]))
    boxes = np.array([tuple(content["init"]), *(tracker.update(golden.read_rgb(frame)).box for frame in frames[1:])])
    error = float(np.abs(boxes - expected).max())
    overlap = iou(boxes, expected)
    details: dict[str, Any] = {"mean_iou": float(overlap.mean()), "median_iou": float(np.median(overlap)), "runner": type(runner).__name__}
    return Finding(error, details["median_iou"] >= HALF_LOOP_IOU if target.half else error <= LOOP_PIXELS, None, details)


def check_crops(path: Path, content: dict[str, Any], target: Target) -> Finding:
    """Crops of one frame in grey levels, and their resize factors."""
    frame = golden.read_rgb(path.parent / str(content["frame"]))
    error, factor_error = 0, 0.0
    for box, crop, factor in zip(content["boxes"], content["crops"], content["resize_factors"], strict=True):
        x, y, w, h = (float(value) for value in box)
        found, found_factor = esat_kernels.crop_resize(frame, (x, y, w, h), float(content["search_factor"]), int(content["output_size"]))
        error = max(error, int(np.abs(found.astype(np.int16) - crop.astype(np.int16)).max()))
        factor_error = max(factor_error, abs(found_factor - float(factor)))
    return Finding(float(error), error <= CROP_LEVELS and factor_error <= 1e-9, None, {"resize_factor": factor_error})


def _max_error(found: Tensor, expected: NDArray[Any]) -> float:
    if tuple(found.shape) != expected.shape:
        raise DatasetError(f"expected an output of shape {expected.shape}, got {tuple(found.shape)}")
    error = (found.detach().cpu().double() - torch.from_numpy(expected).double()).abs().max().item()
    return error if np.isfinite(error) else float("inf")


def _removed(survivors: list[Tensor], config: ModelConfig) -> list[set[int]]:
    left = [set(range(config.num_search)), *(set(stage[0].tolist()) for stage in survivors)]
    return [before - after for before, after in itertools.pairwise(left)]


def _centre_box_iou(found: Tensor, expected: NDArray[Any]) -> float:
    def corners(box: NDArray[Any]) -> NDArray[np.float64]:
        box = box.reshape(-1, 4).astype(np.float64)
        return np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, 2:]])

    return float(iou(corners(found.detach().cpu().float().numpy()), corners(expected)).min())


CHECKS: dict[str, Callable[[Path, dict[str, Any], Target], Finding]] = {
    "forward": check_forward,
    "attention": check_attention,
    "loop": check_loop,
    "crops": check_crops,
    "metrics": check_metrics,
}
