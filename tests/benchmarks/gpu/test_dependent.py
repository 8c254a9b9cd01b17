"""What decides about dependent launches, with the engine on the CPU."""

from __future__ import annotations

import json

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


def test_the_table_keeps_what_is_there_and_decides_about_launches(tmp_path, monkeypatch):
    monkeypatch.setattr(_tuned, "FOLDER", tmp_path)
    monkeypatch.setattr(_tuned, "device_name", lambda device: "Fake 1")
    monkeypatch.setattr(_triton, "interpreted", lambda: False)
    monkeypatch.setattr(_triton._device, "has_dependent_launches", lambda device: True)
    _tuned._table.cache_clear()
    assert _triton.launch_options(CPU) == {"DEPENDENT": False}
    _tuned.file("Fake 1").write_text(json.dumps({"linear": {"a": [1]}}))
    dependent.keep("Fake 1", True)
    assert _tuned.find("Fake 1", "linear", "a") == [1]
    assert _triton.launch_options(CPU) == {"DEPENDENT": True, "launch_pdl": True}
    with _triton.dependent_launches(False):
        assert _triton.launch_options(CPU) == {"DEPENDENT": False}
    monkeypatch.setattr(_triton._device, "has_dependent_launches", lambda device: False)
    assert _triton.launch_options(CPU) == {"DEPENDENT": False}
    _tuned._table.cache_clear()
