"""`esat export` beside the export itself: what it writes of its check."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from engine.export.check import Agreement
from tests.cli.run import esat
from tests.engine.video.clips import picture


def test_a_report_that_cannot_be_written_is_one_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.export.onnx.export_onnx", lambda weights, path, batch: path.write_bytes(b"exported"))
    monkeypatch.setattr("engine.export.check.check", lambda *_: Agreement("onnxruntime", "1", 2, 2))
    cv2.imwrite(str(tmp_path / "0.png"), picture(0))
    command = ["export", "--onnx", tmp_path / "a.onnx", "--model", tiny, "--check", tmp_path / "0.png", "--box", "10,20,24,24"]
    assert esat(*command) == 0
    (tmp_path / "a.check.json").unlink()
    (tmp_path / "a.check.json").mkdir()
    assert esat(*command) == 2
    assert f"error: cannot write {tmp_path / 'a.check.json'}: it is a folder" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["0.png", "a.check.json", "a.onnx"]
