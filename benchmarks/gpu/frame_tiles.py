"""Tiles that are chosen within a frame: alone they are timed without the launches around them, the epilogue, and the L2 as a frame leaves it.

Of each problem of a frame `products` has found a few tiles that are fast alone. Here a frame is captured with each of them in turn, the problem on
which it spends most time first, and replayed in rounds beside one with the tiles in use and another capture of that same one: what two captures of
the same launches differ by is no gain. Tiles that are faster beyond that are in use from there on, and written into the device's table at once.
A frame of the end must be as close to the model in float32 as one has to be, and faster than the one at first, else the table gets back what it
held before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np
import torch

import esat_kernels
from benchmarks import harness
from benchmarks.gpu import products, tables
from benchmarks.gpu.accuracy import model_errors
from benchmarks.gpu.frame import DEVICE, DTYPE, WholeFrame
from benchmarks.gpu.inputs import full_float32, model_weights
from benchmarks.gpu.parts import earlier, read, seconds_left, write
from benchmarks.gpu.products import Key
from benchmarks.gpu.timing import device_ms
from engine.runners.gpu.cuda import streams_for
from engine.runners.gpu.network import GpuNetwork, Kernels
from esat_kernels import _tuned

MODELS = ("esat-384", "esat-s-256")
ROUNDS, SWEEPS = 30, 2
LEAST_GAIN = 0.001  # of a frame
LAST_S = 8  # what the check at the end and one more problem take, should a kernel have to be compiled
Tiles = tuple[int, ...]
Chosen = dict[Key, Tiles]
Clocks = dict[str, Callable[[], float]]


@contextlib.contextmanager
def taking(tiles: Mapping[Key, Sequence[int] | None]) -> Iterator[None]:
    """Within, these problems take these tiles, whatever the device's table says; None: as where nothing was measured."""
    find = _tuned.find

    def found(device: str, operation: str, key: str) -> list[int] | None:
        if (operation, key) not in tiles:
            return find(device, operation, key)
        own = tiles[operation, key]
        return None if own is None else list(own)

    with mock.patch.object(_tuned, "find", found):
        yield


def launches(frame: Callable[[], object]) -> Counter[Key]:
    """How often a call asks for the tiles of each problem."""
    counted: Counter[Key] = Counter()
    find = _tuned.find

    def found(device: str, operation: str, key: str) -> list[int] | None:
        counted[operation, key] += 1
        return find(device, operation, key)

    with mock.patch.object(_tuned, "find", found):
        frame()
    return counted


class Frame(Protocol):
    """What is tuned."""

    def launches(self) -> Counter[Key]:
        """How often one frame has each problem."""

    def capture(self) -> Callable[[], float]:
        """A frame with the tiles that are taken now: gives the milliseconds of a replay. An exception if it cannot run."""

    def right(self) -> bool:
        """Whether a frame with the tiles that are taken now is close enough to the model in float32."""


class CudaFrame:
    """A whole frame of a model at batch 1."""

    def __init__(self, model: str, backend: str):
        self._weights, self._backend = model_weights(model), backend
        self._whole = WholeFrame(GpuNetwork(self._weights, DEVICE, DTYPE, Kernels.of(backend)), 1)

    def launches(self) -> Counter[Key]:
        return launches(self._whole.eager)

    def capture(self) -> Callable[[], float]:
        replay = streams_for(DEVICE).capture(self._whole.eager, (self._whole.plan.boxes,))
        return lambda: device_ms(replay)

    def right(self) -> bool:
        errors = model_errors(self._weights, self._backend)
        print(f"score map against float32: {errors}", flush=True)
        return bool(errors["ok"])


@dataclasses.dataclass(frozen=True)
class Term:
    """A problem of a frame, what it costs there by the time that it takes alone, and the tiles that it may be tried with."""

    problem: Key
    launches: int
    us: float
    tiles: list[Tiles]


def terms(counted: Counter[Key], rows: list[dict[str, Any]]) -> list[Term]:
    """Those that have a choice, the largest first. rows: of `products`."""
    alone = {(row["operation"], row["key"], tuple(row["tiles"])): row.get("median_us", 0.0) for row in rows}
    found = [
        Term(problem, counted[problem], counted[problem] * alone[(*problem, tiles[0])], tiles)
        for problem, tiles in products.finalists(rows).items()
        if counted[problem] and len(tiles) > 1
    ]
    return sorted(found, key=lambda term: -term.us)


def compare(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """What the rounds say of each challenger. times: milliseconds by name; "base" and "twin" are two captures of the tiles in use.

    noise: how far the twin is from the base in the middle, and half of what its middle rounds spread over. A challenger that won was faster by more
    than that in three quarters of the rounds.
    """
    base = np.asarray(times["base"])
    low, middle, high = np.quantile(np.asarray(times["twin"]) / base, (0.25, 0.5, 0.75))
    noise = max(abs(middle - 1.0) + (high - low) / 2, LEAST_GAIN)
    found = {}
    for name, own in times.items():
        if name not in ("base", "twin"):
            middle, high = np.quantile(np.asarray(own) / base, (0.5, 0.75))
            found[name] = {"ratio": float(middle), "noise": float(noise), "won": bool(high < 1.0 - noise)}
    return found


def attempt(frame: Frame, chosen: Chosen, term: Term, current: Tiles | None, standing: Clocks) -> dict[str, Any]:
    """One problem in the frame: a row of the report, with the tiles that won, or None.

    current: those in use, None if there is no table for them. standing: captures of what is chosen by now; filled if it is empty.
    """
    if not standing:
        with taking(chosen):
            standing |= {"base": frame.capture(), "twin": frame.capture()}
    clocks, tried = dict(standing), {}
    for tiles in term.tiles:
        if tiles == current:
            continue
        try:
            with taking({**chosen, term.problem: tiles}):
                clocks[str(tiles)] = frame.capture()
        except Exception as error:  # noqa: BLE001  with what stands around it in a frame it may need more than the device has
            tried[str(tiles)] = {"won": False, "why": f"{type(error).__name__}: {str(error)[:300]}"}
    found = compare(harness.rounds(clocks, least=ROUNDS, warm_up=2))
    won = min(
        (tiles for tiles in term.tiles if found.get(str(tiles), {}).get("won")), key=lambda tiles: found[str(tiles)]["ratio"], default=None
    )
    operation, key = term.problem
    row = {"operation": operation, "key": key, "launches": term.launches, "alone_us": term.us, "from": current, "won": won}
    return {**row, "tried": {**tried, **found}}


class Report:
    """What has been decided, written after every problem together with the device's table."""

    def __init__(self, output: Path, device: str):
        self._output, self._device = output, device
        self.models: dict[str, dict[str, Any]] = earlier(output).get("models", {})

    def of(self, model: str) -> dict[str, Any]:
        return self.models.setdefault(model, {"rows": [], "sweeps": 0, "ok": None})

    def write(self, chosen: Chosen, ok: bool = False, **more: Any) -> None:
        table = tables.read(self._device)
        for (operation, key), tiles in chosen.items():
            table.setdefault(operation, {})[key] = list(tiles)
        tables.write(self._device, table)
        write(self._output, {"ok": ok, "models": self.models, **more})

    def take_back(self, before: Mapping[Key, Tiles | None]) -> None:
        """Put into the table what was there before for these problems."""
        table = tables.read(self._device)
        for (operation, key), tiles in before.items():
            table.setdefault(operation, {}).pop(key, None)
            if tiles is not None:
                table[operation][key] = list(tiles)
        tables.write(self._device, table)


def before(found: dict[str, Any]) -> dict[Key, Tiles | None]:
    """The tiles that a model's problems had at first."""
    rows = reversed(found["rows"])
    return {(row["operation"], row["key"]): None if row["from"] is None else tuple(row["from"]) for row in rows}


def tune(frame: Frame, found: dict[str, Any], rows: list[dict[str, Any]], table: tables.Table, note: Callable[[Chosen], None]) -> Chosen:
    """Coordinate descent over a frame's problems until a sweep finds nothing or time runs out: the tiles that won.

    found: of the model, filled with what was tried, by an earlier call too; "sweeps" counts those that are done. note: gets what is chosen by now.
    """
    chosen: Chosen = {(row["operation"], row["key"]): tuple(row["won"]) for row in found["rows"] if row["won"]}
    order = terms(frame.launches(), rows)
    standing: Clocks = {}
    took = 0.0
    while found["sweeps"] < SWEEPS:
        done = {(row["operation"], row["key"]) for row in found["rows"] if row["sweep"] == found["sweeps"]}
        for term in order:
            if term.problem in done:
                continue
            if seconds_left(3600) < LAST_S + 2 * took:
                return chosen
            started = time.monotonic()
            operation, key = term.problem
            current = chosen.get(term.problem) or table.get(operation, {}).get(key)
            row = attempt(frame, chosen, term, None if current is None else tuple(current), standing)
            took = max(took, time.monotonic() - started)
            if row["won"]:
                chosen[term.problem] = row["won"]
                standing.clear()
            found["rows"].append({"sweep": found["sweeps"], **row})
            best = min((one["ratio"] for one in row["tried"].values() if "ratio" in one), default=float("nan"))
            print(f"{operation} {key} x {term.launches}: {row['won'] or 'as before'}, best {best:.4f} of the frame", flush=True)
            note(chosen)
        found["sweeps"] += 1
        if not any(row["won"] for row in found["rows"] if row["sweep"] == found["sweeps"] - 1):
            found["sweeps"] = SWEEPS
    return chosen


def gain(frame: Frame, chosen: Chosen, first: Mapping[Key, Tiles | None]) -> dict[str, Any]:
    """A frame with what was chosen beside one with what was there at `first`."""
    with taking(first):
        clocks = {"base": frame.capture(), "twin": frame.capture()}
    with taking(chosen):
        clocks["chosen"] = frame.capture()
    times = harness.rounds(clocks, least=ROUNDS, warm_up=2)
    return {"before_ms": float(np.median(times["base"])), "after_ms": float(np.median(times["chosen"])), **compare(times)["chosen"]}


def one(model: str, frame: Frame, report: Report, rows: list[dict[str, Any]], table: tables.Table) -> bool:
    """Tune a model's frame; whether all of it is done and right."""
    found = report.of(model)
    chosen = tune(frame, found, rows, table, report.write)
    if chosen:
        with taking(chosen):
            found["ok"] = frame.right()
        if not found["ok"]:
            report.take_back(before(found))
            found["why"] = "with the tiles that were chosen the frame is too far from the model in float32"
            found["wrong"] = [[*problem, list(tiles)] for problem, tiles in chosen.items()]
            found["rows"], found["sweeps"] = [], 0  # so that another call begins anew
            return False
        found.pop("why", None)
        found["gain"] = gain(frame, chosen, before(found))
        print(f"{model}: {found['gain']}", flush=True)
        if found["gain"]["ratio"] >= 1:  # what was gained problem by problem is none in the whole
            report.take_back(before(found))
    found["ok"] = True
    return bool(found["sweeps"] == SWEEPS)


@torch.no_grad()
def main(output: Path, make: Callable[[str], Frame] | None = None) -> int:
    measured = read(output.with_name("gpu_products.json"))
    rows = measured.get("rows", [])
    if not rows:
        print("part products has measured no tiles")
        write(output, {"ok": False, "why": "part products has measured no tiles"})
        return 1
    full_float32()
    device = torch.cuda.get_device_name()
    report, table = Report(output, device), tables.read(device)
    lacking = [*measured.get("no_time_for", []), *measured.get("failed", {})]
    complete = not any(problem.startswith(("linear", "attention")) for problem in lacking)
    good = complete
    for model in MODELS:
        if report.of(model)["ok"] and report.of(model)["sweeps"] == SWEEPS:
            continue
        if seconds_left(3600) < 2 * LAST_S:
            good = False
            continue
        backend = "cuda" if esat_kernels.backends()["cuda"] is None else "triton"
        frame = make(model) if make is not None else CudaFrame(model, backend)
        good &= one(model, frame, report, rows, table)
        if not complete:  # what products measures later is tried by the call behind it
            report.of(model)["sweeps"] = 0
        report.write({})
    report.write({}, good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
