"""Frames of two planes: OpenCV's colours, and crops equal to those of the converted frame."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import esat_kernels
from esat_kernels import Nv12, _native
from esat_kernels.crop import native, reference
from esat_kernels.crop.geometry import Region
from tests.kernels.nv12_frames import buffer_of, nv12_of
from tests.kernels.test_crop import REGIONS
from tests.kernels.test_crop import isa as isa  # a fixture
from tests.kernels.test_regions import boxes_in
from tests.require import require

SHARES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue in luma (ITU-R BT.601, BT.709)


def test_colours_are_opencv_s():
    surface = np.random.default_rng(0).integers(0, 256, (90, 64), np.uint8)
    frame = Nv12.of_surface(surface, "bt601")
    assert frame.shape == (60, 64)
    np.testing.assert_array_equal(frame.rgb(), cv2.cvtColor(surface, cv2.COLOR_YUV2RGB_NV12))


@pytest.mark.parametrize("matrix", SHARES)
def test_colours_are_those_of_the_standard(matrix):
    """Colours to luma and chroma by the standard's formulas in float64, rounded to bytes, and back: within what the bytes lose."""
    red, blue = SHARES[matrix]
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    r, g, b = np.moveaxis(colours / 255.0, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    luma = np.repeat(np.repeat(16 + 219 * y, 2, axis=0), 2, axis=1)
    chroma = np.stack([128 + 224 * u, 128 + 224 * v], axis=-1)
    found = Nv12(np.round(luma).astype(np.uint8), np.round(chroma).astype(np.uint8), matrix).rgb()[::2, ::2].astype(int)
    assert np.abs(found - colours).max() <= 3
    assert np.abs((found - colours).mean(axis=(0, 1))).max() <= 0.4


@pytest.mark.parametrize("matrix", SHARES)
def test_the_native_crop_equals_the_reference_bit_for_bit(isa, matrix):
    for shape, region, size in REGIONS:
        frame = nv12_of(*shape, matrix)
        expected = reference.crop_resize(frame.rgb(), Region(*region), size)
        np.testing.assert_array_equal(native.crop_resize(frame, Region(*region), size), expected, str((shape, region, size)))
        np.testing.assert_array_equal(reference.crop_resize(frame, Region(*region), size), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_native_crop(isa, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = native.crop_resize(nv12_of(90, 120), Region(-10, 20, 110), 384)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(got, reference.crop_resize(nv12_of(90, 120), Region(-10, 20, 110), 384))


def test_planes_with_a_pitch_and_in_other_layouts(isa):
    """A decoder's rows lie further apart than they are wide."""
    frame, region = nv12_of(61, 75), Region(-10, 5, 80)
    luma, chroma = np.full((61, 128), 7, np.uint8), np.full((31, 64, 2), 9, np.uint8)
    luma[:, :75], chroma[:, :38] = frame.luma, frame.chroma
    expected = native.crop_resize(frame, region, 48)
    for planes in (
        (luma[:, :75], chroma[:, :38]),
        (frame.luma[::-1].copy()[::-1], frame.chroma[::-1].copy()[::-1]),
        (np.asfortranarray(frame.luma), np.asfortranarray(frame.chroma)),
    ):
        np.testing.assert_array_equal(native.crop_resize(Nv12(*planes, frame.matrix), region, 48), expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_rows_of_patches_are_rgb_whatever_the_colour_order(backend):
    require("cpu", _native.unavailable())
    frame, box = nv12_of(100, 130), (90.0, 60.0, 30.0, 22.0)
    found, expected = torch.empty(2, 16, 768), torch.empty(16, 768)
    for rows, bgr in zip(found, (True, False), strict=True):
        esat_kernels.crop_patches(frame, box, 4.0, 64, rows, bgr=bgr, backend=backend)
    esat_kernels.crop_patches(frame.rgb(), box, 4.0, 64, expected, bgr=False, backend=backend)
    assert torch.equal(found, expected.expand(2, -1, -1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 1), (60, 81), (240, 320)])
@pytest.mark.parametrize("matrix", SHARES)
def test_crops_of_several_boxes_equal_those_of_the_converted_frame(height, width, matrix):
    frame, boxes = nv12_of(height, width, matrix), torch.tensor(boxes_in(height, width), dtype=torch.float64)
    size = torch.tensor([height, width], dtype=torch.int32)
    found, expected = (torch.empty(len(boxes), 4, 768) for _ in range(2))
    regions = esat_kernels.crop_regions(buffer_of(frame), size, boxes, 4.0, 32, found, matrix=matrix)
    same = esat_kernels.crop_regions(torch.from_numpy(frame.rgb()).flatten(), size, boxes, 4.0, 32, expected, bgr=False)
    assert torch.equal(found, expected)
    assert torch.equal(regions, same)


WITHOUT_MEMORY = """
import resource
import numpy as np
import esat_kernels
from pathlib import Path

planes = np.zeros((2, 400_000_000), np.uint8), np.zeros((1, 200_000_000, 2), np.uint8)  # pages that nothing reads take no memory
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
try:
    esat_kernels.crop_resize(esat_kernels.Nv12(*planes, "bt601"), (399_999_400, 0, 100, 2), 2.0, 64, backend="cpu")
except MemoryError:
    print("no memory")
"""


def test_memory_that_cannot_be_had_does_not_end_the_process_in_openmp():
    require("cpu", _native.unavailable())
    done = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "no memory\n"), done.stderr


BYTES, PAIRS = np.zeros((4, 6), np.uint8), np.zeros((2, 3, 2), np.uint8)
BAD_FRAMES = [
    (Nv12(BYTES, torch.from_numpy(PAIRS), "bt601"), "must both be NumPy arrays or both PyTorch tensors, got ndarray and Tensor"),
    (Nv12(BYTES.astype(np.uint16), PAIRS, "bt601"), "must be uint8, got uint16 and uint8"),
    (Nv12(BYTES, PAIRS[:1], "bt601"), r"chroma \[ceil\(H / 2\), ceil\(W / 2\), 2\], got \(4, 6\) and \(1, 3, 2\)"),
    (Nv12(BYTES, PAIRS.reshape(2, 6), "bt601"), r"got \(4, 6\) and \(2, 6\)"),
    (Nv12(BYTES[:0], PAIRS[:0], "bt601"), r"got \(0, 6\)"),
    (Nv12(BYTES, PAIRS, "bt2020"), "matrix must be bt601 or bt709, got 'bt2020'"),
    (Nv12(torch.from_numpy(BYTES), torch.from_numpy(PAIRS), "bt601"), "must be NumPy arrays here"),
]


@pytest.mark.parametrize(("frame", "message"), BAD_FRAMES)
def test_bad_frames(frame, message):
    with pytest.raises(ValueError, match=message):
        esat_kernels.crop_resize(frame, (1.0, 1.0, 2.0, 2.0), 2.0, 16)


def test_a_surface_that_cannot_be():
    for shape in ((10, 8), (9, 7), (9,)):
        with pytest.raises(ValueError, match=r"must be \[3 H / 2, W\]"):
            Nv12.of_surface(np.zeros(shape, np.uint8), "bt601")


def test_an_unknown_matrix_is_refused():
    with pytest.raises(ValueError, match="matrix must be None, bt601 or bt709, got 'bt2020'"):
        esat_kernels.crop_regions(
            torch.zeros(90, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32), torch.zeros(1, 4).double(), 2.0, 16,
            torch.empty(1, 1, 768), matrix="bt2020",
        )  # fmt: skip
