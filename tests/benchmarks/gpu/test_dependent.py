"""What decides about dependent launches, with the engine on the CPU."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import dependent, inputs
from esat_kernels import _triton, _tuned

CPU = torch.device("cpu")


def clocked(milliseconds):
    times = iter(milliseconds)
    return lambda call: call() and {"median_ms": next(times)}


@pytest.mark.parametrize(("milliseconds", "pays"), [([5.0, 4.0, 5.1, 4.1, 4.9, 4.2], True), ([5.0, 4.0, 5.1, 4.1, 4.9, 4.95], False)])
def test_they_pay_where_every_round_is_faster(milliseconds, pays):
    found = dependent.measure(inputs.small_weights(), "reference", CPU, clocked(milliseconds), frames=3)
    assert found["ok"]
    assert found["pays"] == pays
    assert found["off_ms"] == milliseconds[::2]


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
    assert (found["ok"], found["pays"], found["on_ms"]) == (False, False, [])
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
