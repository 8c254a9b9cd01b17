"""Golden files as plain arrays (.npy), which the C++ tests read on processors that have no Python here.

    python -m conformance.arrays FILE... OUT

Each file of the kinds attention, crops and forward becomes a folder of OUT; files of other kinds are named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from conformance import golden
from engine.cli.exits import run_function
from esat_kernels.attention.common import Forces
from esat_kernels.crop.geometry import region_around

Arrays = dict[str, NDArray[Any]]


def attention(path: Path, content: dict[str, Any]) -> Arrays:
    """Inputs and gradients' inputs q, k, v, dout float32 [B, H, N, D]; out, dq, dk, dv and scores float64; `numbers`, see `_numbers`."""
    spec = json.loads(str(content["spec"]))
    forces = Forces(spec["alpha"], spec["beta"], spec["delta"], spec["scale"])
    tensors = {name: content[name] for name in ("q", "k", "v", "dout", "out", "scores", "dq", "dk", "dv")}
    return {**tensors, "numbers": _numbers(forces, spec["num_template"], spec["template_token"])}


def crops(path: Path, content: dict[str, Any]) -> Arrays:
    """`frame` uint8 [height, width, 3]; `regions` int64 [n, 3]: left, top, side; `crops` uint8 [n, size, size, 3]."""
    regions = [region_around(tuple(box), float(content["search_factor"])) for box in content["boxes"].tolist()]
    return {
        "frame": golden.read_rgb(path.parent / str(content["frame"])),
        "regions": np.array(regions, np.int64),
        "crops": content["crops"],
    }


def forward(path: Path, content: dict[str, Any]) -> Arrays:
    """The maps float32 [1, channels, F, F] and `pred_box` [1, 1, 4]. For each elimination i `removed_i` int64 [1, n], positions of the search
    grid, and `qkv_i` float32 [N, 3, H, D], rows of the layer that it lies in, from the reference network; `numbers`, see `_numbers`."""
    spec = json.loads(str(content["spec"]))
    config = golden.model_config(spec)
    network = golden.draw_weights(config, spec["seed"], spec["gain"], path).model("reference")
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...], qkv: Tensor) -> None:
        seen.append(qkv[0].view(-1, 3, config.heads, config.head_dim))

    for layer in config.elimination_layers:
        network.backbone.blocks[layer].attn.qkv.register_forward_hook(keep)
    with torch.inference_mode():
        network(*golden.draw_images(spec["zs"], spec["xs"], spec["seed"]))
    arrays = {name: content[name] for name in ("score_map", "size_map", "offset_map", "pred_box")}
    for stage, qkv in enumerate(seen):
        arrays |= {f"qkv_{stage}": qkv.numpy(), f"removed_{stage}": content[f"removed_{stage}"]}
    forces = Forces.of(config.head_dim, **config.forces)
    return {**arrays, "numbers": _numbers(forces, config.num_template, config.template_token)}


def _numbers(forces: Forces, num_template: int, template_token: int) -> NDArray[np.float64]:
    """float64 [6]: alpha, beta, delta, scale, template tokens, and the template token whose row gives the scores."""
    return np.array([*forces, num_template, template_token], np.float64)


KINDS: dict[str, Callable[[Path, dict[str, Any]], Arrays]] = {"attention": attention, "crops": crops, "forward": forward}


def main(
    files: Annotated[list[Path], typer.Argument(help="golden files (.npz)")],
    out: Annotated[Path, typer.Argument(help="the folder to write")],
) -> None:
    """Write golden files as plain arrays for the C++ tests."""
    for path in files:
        content = golden.load(path)
        if content["kind"] not in KINDS:
            print(f"{path}: left out, of kind {content['kind']}")
            continue
        arrays = KINDS[content["kind"]](path, content)
        folder = out / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(array))


if __name__ == "__main__":
    run_function(main)
