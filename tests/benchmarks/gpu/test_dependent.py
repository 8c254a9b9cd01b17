"""What decides about dependent launches, with the engine on the CPU."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import dependent, inputs
from esat_kernels import _triton, _tuned
from tests.engine.runners.gpu import models

CPU = torch.device("cpu")
WIDE = models.weights(dim=128, heads=2, depth=2, elimination_layers=(1,), template_size=32, search_size=64)  # enough for eight bits


def clocked(milliseconds):
    times = iter(milliseconds)
    return lambda call: call() and {"median_ms": next(times)}


@pytest.mark.parametrize(("milliseconds", "pays"), [([5.0, 4.0, 5.1, 4.1, 4.9, 4.2], True), ([5.0, 4.0, 5.1, 4.1, 4.9, 4.95], False)])
def test_they_pay_where_every_round_is_faster(milliseconds, pays):
    found = dependent.measure(inputs.small_weights(), "reference", CPU, clocked(milliseconds), frames=3)
    assert found["ok"]
    assert found["pays"] == pays
    assert found["modes"]["bf16"]["off_ms"] == milliseconds[::2]
    assert set(found["modes"]) == {"bf16"}  # too narrow for eight bits


FASTER, SLOWER = [5.0, 4.0, 5.1, 4.1, 4.9, 4.2], [5.0, 5.5, 5.1, 5.6, 4.9, 5.7]


@pytest.mark.parametrize(("half", "eight"), [(FASTER, FASTER), (FASTER, SLOWER), (SLOWER, FASTER)])
def test_they_pay_only_where_a_frame_in_fp8_is_faster_too(half, eight):
    """One switch is for both."""
    found = dependent.measure(WIDE, "reference", CPU, clocked([*half, *eight]), frames=2)
    assert {mode: one["on_ms"] for mode, one in found["modes"].items()} == {"bf16": half[1::2], "fp8": eight[1::2]}
    assert (found["ok"], found["pays"]) == (True, half == eight == FASTER)


def test_frames_in_fp8_that_differ_turn_them_off(monkeypatch):
    captured, tried = dependent.WholeFrame.captured, []

    def shaky(self):
        call, wrong = captured(self), _triton._dependent and len(tried) >= 2  # the network in fp8 is the second one
        tried.append(self)
        return (lambda: call()._replace(record=call().record + 1)) if wrong else call

    monkeypatch.setattr(dependent.WholeFrame, "captured", shaky)
    found = dependent.measure(WIDE, "reference", CPU, clocked(FASTER), frames=2)
    assert {mode: one["ok"] for mode, one in found["modes"].items()} == {"bf16": True, "fp8": False}
    assert (found["ok"], found["pays"]) == (False, False)


def test_frames_that_differ_have_no_time(monkeypatch):
    """The frame that is captured with them on is a bit off, once."""
    captured = dependent.WholeFrame.captured

    def shaky(self):
        call, wanted, count = captured(self), _triton._dependent, iter(range(100))

        def frame():
            result = call()
            return result._replace(record=result.record + 1e-12 * (next(count) == 2 and bool(wanted)))

        return frame

    monkeypatch.setattr(dependent.WholeFrame, "captured", shaky)
    assert _triton._dependent is None
    found = dependent.measure(inputs.small_weights(), "reference", CPU, clocked([]), frames=4)
    assert (found["ok"], found["pays"], found["modes"]["bf16"]["on_ms"]) == (False, False, [])
    assert _triton._dependent is None


@pytest.fixture
def device(tmp_path, monkeypatch):
    """The CPU as a device that has dependent launches, and no table yet."""
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path)
    monkeypatch.setattr(_tuned, "device_name", lambda device: "Fake 1")
    monkeypatch.setattr(_triton, "interpreted", lambda: False)
    monkeypatch.setattr(_triton._device, "has_dependent_launches", lambda device: True)
    _tuned._table.cache_clear()
    yield
    _tuned._table.cache_clear()


ON, OFF = {"DEPENDENT": True, "launch_pdl": True}, {"DEPENDENT": False}


@pytest.mark.usefixtures("device")
def test_the_table_keeps_what_is_there_and_decides_about_launches(monkeypatch):
    assert _triton.launch_options(CPU) == OFF
    _tuned.file("Fake 1").write_text(json.dumps({"linear": {"a": [1]}}))
    dependent.keep("Fake 1", True)
    assert _tuned.find("Fake 1", "linear", "a") == [1]
    assert _triton.launch_options(CPU) == ON
    with _triton.dependent_launches(False):
        assert _triton.launch_options(CPU) == OFF
    monkeypatch.setattr(_triton._device, "has_dependent_launches", lambda device: False)
    assert _triton.launch_options(CPU) == OFF


@pytest.mark.usefixtures("device")
def test_launches_that_were_measured_with_other_sources_are_off_and_that_is_said(monkeypatch):
    dependent.keep("Fake 1", True)
    assert _tuned.tables() == {"fake-1": "tiles of 0 products, 0 products in fp8 and 0 sizes of attention; dependent launches on"}
    before = _tuned.sources()
    monkeypatch.setattr(_tuned, "sources", lambda: "0123456789abcdef")
    assert _triton.launch_options(CPU) == OFF
    said = f"off, since they were measured with other sources or compilers ({before}, these are 0123456789abcdef): `make gpu` measures them"
    assert _tuned.about("Fake 1") == f"tiles of 0 products, 0 products in fp8 and 0 sizes of attention; dependent launches {said}"
    with _triton.dependent_launches(True):
        assert _triton.launch_options(CPU) == ON
    _tuned.file("Fake 1").write_text(json.dumps({"launches": {"dependent": True}}))  # without any
    _tuned._table.cache_clear()
    assert _triton.launch_options(CPU) == OFF
    assert _tuned.about("Fake 2") is None


def test_other_compilers_are_other_sources(monkeypatch):
    """One may order what another has not."""
    found = []
    for triton, cuda in (("3.6.0", "13.0"), ("3.6.1", "13.0"), ("3.6.0", "13.1"), (None, "13.0"), (None, None)):
        monkeypatch.setitem(sys.modules, "triton", None if triton is None else SimpleNamespace(__version__=triton))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        found += [_tuned.sources.__wrapped__(), _tuned.sources.__wrapped__()]
    assert found[::2] == found[1::2]
    assert len(set(found)) == 5
