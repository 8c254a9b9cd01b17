"""Golden files of public code on the GPU: attention and whole forward passes through each kernel backend, and through the engine.

Files: `tests/golden/*.npz`, and those of ESAT_SHARED/oracle where that folder has been brought along.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

import esat_kernels
from benchmarks import parity
from benchmarks.gpu.inputs import full_float32
from benchmarks.gpu.parts import write
from conformance import golden
from conformance.checks import FORWARD_KERNEL, HALF_REMOVED_OVERLAP
from conformance.findings import Target
from engine.runners.gpu.network import GpuNetwork, Kernels
from engine.runners.protocol import DTYPES

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES_OF = {"cuda": ("bf16",), "triton": ("bf16", "fp16", "fp32")}


def files() -> list[Path]:
    """The golden files that are here."""
    folders = [REPOSITORY / "tests" / "golden"]
    if "ESAT_SHARED" in os.environ:
        folders.append(Path(os.environ["ESAT_SHARED"]) / "oracle")
    found = {path.name: path for folder in folders for path in sorted(folder.glob("*.npz"))}
    return list(found.values())


def check_engine(path: Path, content: dict[str, Any], target: Target) -> dict[str, Any]:
    """A forward file through the engine's network: maps, kept tokens. Half precision has to keep almost the same tokens."""
    spec = json.loads(str(content["spec"]))
    config = golden.model_config(spec)
    weights = golden.draw_weights(config, spec["seed"], spec["gain"], path)
    device, dtype = torch.device(target.device), DTYPES[target.dtype]
    network = GpuNetwork(weights, device, dtype, Kernels.of(target.backend))
    template, search = (golden.patch_rows(image).to(device, dtype) for image in golden.draw_images(spec["zs"], spec["xs"], spec["seed"]))
    inputs = network.inputs(1)
    with torch.no_grad():
        for part, value in zip(inputs, network.encode_template(template[0]), strict=True):
            part[0, : config.num_template] = value
        maps, kept, _ = network.run(search, inputs)
    errors = {
        f"{name}_map": float((value.cpu().double() - torch.from_numpy(content[f"{name}_map"]).double()).abs().max())
        for name, value in maps._asdict().items()
    }
    gone = set(range(config.num_search)) - set((kept if kept is not None else torch.arange(config.num_search)[None])[0].tolist())
    expected = {int(token) for stage in range(len(config.elimination_layers)) for token in content[f"removed_{stage}"][0]}
    overlap = len(gone & expected) / max(len(expected), 1)
    good = overlap >= HALF_REMOVED_OVERLAP if target.half else gone == expected and max(errors.values()) <= FORWARD_KERNEL
    return {
        "file": path.name,
        "kind": "engine",
        "max_abs_error": max(errors.values()),
        "removed_equal": gone == expected,
        "ok": good,
        "backend": target.backend,
        "dtype": target.dtype,
        "device": target.device,
        "details": {**errors, "removed_overlap": overlap},
    }


def rows(path: Path, target: Target) -> list[dict[str, Any]]:
    """The checks of one file; what cannot be checked says why."""
    try:
        content = golden.load(path)
        if content["kind"] not in ("attention", "forward", "loop"):
            return []
        found = [parity.check_file(path, target)]
        if content["kind"] == "forward":
            found.append(check_engine(path, content, target))
    except Exception as error:  # noqa: BLE001  one file takes no other with it
        why = f"{type(error).__name__}: {error}"
        return [{"file": path.name, "kind": None, "ok": False, "backend": target.backend, "dtype": target.dtype, "error": why[:600]}]
    return found


def main(output: Path) -> int:
    full_float32()
    backends = [name for name in ("cuda", "triton") if esat_kernels.backends()[name] is None]
    found: list[dict[str, Any]] = []
    for backend in backends:
        for dtype in DTYPES_OF[backend]:
            for path in files():
                found += rows(path, Target(backend, dtype, "cuda"))
            write(output, {"ok": False, "rows": found})
    good = bool(found) and all(row["ok"] for row in found)
    write(output, {"ok": good, "rows": found})
    for row in found:
        print(f"{row['file']} {row['kind']} {row['backend']} {row['dtype']}: {'ok' if row['ok'] else row.get('error', 'FAILED')}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
