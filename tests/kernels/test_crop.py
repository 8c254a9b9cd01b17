"""The crop kernel gives OpenCV's bits; patch rows are what normalising and unfolding give."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import esat_kernels
from esat_kernels import _native
from esat_kernels.crop import native, reference
from esat_kernels.crop.geometry import Region, region_around
from tests.kernels.defaults import DEFAULTS, set_default
from tests.require import require

ISAS = ("portable", "avx2", "neon")
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    require("cpu", _native.unavailable())
    monkeypatch.setenv("ESAT_CPU", request.param)
    try:
        return _native.cpu_isa()
    except ValueError as error:
        pytest.skip(str(error))


def frame_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# (frame height, frame width), region left, top, side, output size
REGIONS = [
    ((120, 160), (20, 30, 50), 64),  # inside, enlarged
    ((120, 160), (5, 7, 100), 32),  # inside, reduced
    ((120, 160), (5, 7, 64), 64),  # one to one
    ((120, 160), (5, 7, 96), 48),  # two to one, where OpenCV averages areas
    ((120, 160), (-20, -30, 90), 64),  # beyond the upper left corner
    ((120, 160), (100, 80, 90), 64),  # beyond the lower right corner
    ((120, 160), (110, 10, 50), 64),  # touches the right border exactly
    ((120, 160), (109, 10, 50), 64),  # ends one column before it
    ((120, 160), (-300, -300, 1000), 128),  # the whole frame and more
    ((120, 160), (500, 10, 50), 16),  # beside the frame
    ((120, 160), (10, -80, 50), 16),  # above it
    ((120, 160), (30, 40, 1), 16),  # one pixel
    ((120, 160), (30, 40, 7), 1),  # to one pixel
    ((120, 160), (30, 40, 77), 37),  # no multiple of any vector
    ((1, 160), (30, 0, 7), 16),
    ((160, 1), (0, 30, 7), 16),
    ((2, 2), (0, 0, 2), 16),
    ((2, 3), (-1, -1, 5), 16),
    ((33, 47), (-5, -5, 61), 256),
    ((33, 47), (-5, -5, 61), 2048),
]


@pytest.mark.parametrize(("shape", "region", "size"), REGIONS)
def test_equals_opencv_bit_for_bit(isa: str, shape: tuple[int, int], region: tuple[int, int, int], size: int) -> None:
    frame = frame_of(*shape)
    np.testing.assert_array_equal(native.crop_resize(frame, Region(*region), size), reference.crop_resize(frame, Region(*region), size))


def test_many_random_regions(isa: str) -> None:
    random = np.random.default_rng(1)
    for _ in range(400):
        height, width = (int(n) for n in random.integers(1, 120, 2))
        side, size = int(random.integers(1, 260)), int(random.integers(1, 100))
        region = Region(int(random.integers(-side - 3, width + 3)), int(random.integers(-side - 3, height + 3)), side)
        frame = frame_of(height, width, seed=side)
        np.testing.assert_array_equal(native.crop_resize(frame, region, size), reference.crop_resize(frame, region, size), str(region))


def test_public_code_s_crops(isa: str, shared: Path) -> None:
    golden = np.load(shared / "oracle" / "crops_tlp_CarChase2_frame0.npz")
    frame = cv2.cvtColor(cv2.imread(str(shared / "oracle" / str(golden["frame"]))), cv2.COLOR_BGR2RGB)
    size = int(golden["output_size"])
    for box, expected, factor in zip(golden["boxes"], golden["crops"], golden["resize_factors"], strict=True):
        crop, resize_factor = esat_kernels.crop_resize(frame, tuple(box), float(golden["search_factor"]), size, backend="cpu")
        assert resize_factor == pytest.approx(float(factor), rel=1e-12)
        assert np.abs(crop.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(isa: str, threads: int) -> None:
    frame, region = frame_of(90, 120), Region(-10, 20, 110)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = native.crop_resize(frame, region, 384)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(got, reference.crop_resize(frame, region, 384))


def layouts() -> dict[str, np.ndarray]:
    frame = frame_of(60, 70)
    four = np.concatenate([frame, frame[:, :, :1]], axis=2)
    wide = np.zeros((60, 100, 3), np.uint8)
    wide[:, 10:80] = frame
    return {
        "four channels": four[:, :, :3],
        "four channels, last three": np.concatenate([frame[:, :, :1], frame], axis=2)[:, :, 1:],
        "part of a wider frame": wide[:, 10:80],
        "upside down": np.ascontiguousarray(frame[::-1])[::-1],
        "mirrored": np.ascontiguousarray(frame[:, ::-1])[:, ::-1],
        "channels reversed": np.ascontiguousarray(frame[:, :, ::-1])[:, :, ::-1],
        "every second column": np.repeat(frame, 2, axis=1)[:, ::2],
        "planar": np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0),
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("region", [Region(-10, -10, 90), Region(10, 10, 30)])
def test_frames_in_other_layouts(isa: str, name: str, region: Region) -> None:
    expected = reference.crop_resize(frame_of(60, 70), region, 48)
    np.testing.assert_array_equal(native.crop_resize(layouts()[name], region, 48), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_patch_rows_times_weight_are_the_convolution_s_input(isa: str, dtype: torch.dtype, bgr: bool, normalise: bool) -> None:
    frame, box = frame_of(100, 130), (90.0, 60.0, 30.0, 22.0)
    out = torch.full((36, 768), math.nan, dtype=dtype)
    factor = esat_kernels.crop_patches(frame, box, 4.0, 96, out, bgr=bgr, normalise=normalise, backend="cpu")
    crop, expected_factor = esat_kernels.crop_resize(frame, box, 4.0, 96, backend="reference")
    image = torch.from_numpy(crop).permute(2, 0, 1).double()
    image = image.flip(0) if bgr else image
    if normalise:
        image = (image / 255 - MEAN.double().view(3, 1, 1)) / STD.double().view(3, 1, 1)
    expected = torch.nn.functional.unfold(image[None], 16, stride=16)[0].T
    assert factor == expected_factor
    if dtype == torch.float32:
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=4e-7 if normalise else 0)
    elif not normalise:
        assert torch.equal(out.double(), expected)  # 0 to 255 are exact in bfloat16
    else:  # the rounded value, or its neighbour where the float32 value lies on the other side of a tie
        torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=1e-6)


def test_patch_rows_are_the_same_on_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu", _native.unavailable())
    monkeypatch.delenv("ESAT_CPU", raising=False)
    isas = [isa for isa in ISAS if isa in _native.cpu_sets()]
    if len(isas) == 1:
        pytest.skip("this machine has one path")
    frame, box = frame_of(100, 130), (90.0, 60.0, 30.0, 22.0)
    for dtype in (torch.float32, torch.bfloat16):
        rows = {}
        for isa in isas:
            monkeypatch.setenv("ESAT_CPU", isa)
            rows[isa] = torch.full((16, 768), math.nan, dtype=dtype)
            esat_kernels.crop_patches(frame, box, 4.0, 64, rows[isa], backend="cpu")
        assert all(torch.equal(rows["portable"], other) for other in rows.values())


def test_patch_rows_may_lie_apart_and_the_gaps_stay(isa: str) -> None:
    frame, box = frame_of(100, 130), (90.0, 60.0, 30.0, 22.0)
    wide = torch.full((16, 800), -7.0)
    esat_kernels.crop_patches(frame, box, 4.0, 64, wide[:, 16:784], backend="cpu")
    dense = torch.empty(16, 768)
    esat_kernels.crop_patches(frame, box, 4.0, 64, dense, backend="reference")
    torch.testing.assert_close(wide[:, 16:784], dense, rtol=0, atol=4e-7)
    assert (wide[:, :16] == -7).all()
    assert (wide[:, 784:] == -7).all()


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_defaults_of_pytorch_change_no_row(backend: str, default: torch.dtype | torch.device) -> None:
    require("cpu", _native.unavailable())
    found, expected = torch.empty(2, 16, 768)
    esat_kernels.crop_patches(frame_of(100, 130), (90.0, 60.0, 30.0, 22.0), 4.0, 64, expected, backend=backend)
    with set_default(default):
        esat_kernels.crop_patches(frame_of(100, 130), (90.0, 60.0, 30.0, 22.0), 4.0, 64, found, backend=backend)
    assert torch.equal(found, expected)


def test_black_region_is_the_normalised_zero(isa: str) -> None:
    out = torch.full((1, 768), math.nan)
    esat_kernels.crop_patches(frame_of(20, 20), (500.0, 500.0, 4.0, 4.0), 2.0, 16, out, backend="cpu")
    torch.testing.assert_close(out.view(3, 256), (-MEAN / STD).view(3, 1).expand(3, 256), rtol=0, atol=1e-6)


def test_memory_does_not_depend_on_the_region() -> None:
    require("cpu", _native.unavailable())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crop = native.crop_resize(frame_of(64, 64), Region(-50_000, -50_000, 100_000), 256)
    assert crop.shape == (256, 256, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the padded region would be 30 GB


def test_region_rounds_half_to_even() -> None:
    assert region_around((10.0, 20.0, 5.0, 5.0), 2.0) == Region(8, 18, 10)  # 7.5 -> 8, 17.5 -> 18
    assert region_around((11.0, 21.0, 5.0, 5.0), 2.0) == Region(8, 18, 10)  # 8.5 -> 8, 18.5 -> 18


FRAME = frame_of(20, 20)
BOX = (2.0, 2.0, 5.0, 5.0)
BAD_CALLS = [
    (FRAME.astype(np.float32), BOX, 2.0, 16, TypeError, "frame must be uint8, got float32"),
    (FRAME[:, :, :2], BOX, 2.0, 16, ValueError, "frame must be [H, W, 3], got (20, 20, 2)"),
    (FRAME[:, :, 0], BOX, 2.0, 16, ValueError, "frame must be [H, W, 3], got (20, 20)"),
    (FRAME[:0], BOX, 2.0, 16, ValueError, "got (0, 20, 3)"),
    (FRAME, (2.0, 2.0, 0.0, 5.0), 2.0, 16, ValueError, "box must be (x, y, w, h)"),
    (FRAME, (2.0, math.nan, 5.0, 5.0), 2.0, 16, ValueError, "box must be (x, y, w, h)"),
    (FRAME, (2.0, 5.0, 5.0), 2.0, 16, ValueError, "box must be (x, y, w, h)"),
    (FRAME, (2.0, 2.0, 1e300, 1e300), 2.0, 16, ValueError, "the box must have a finite area"),
    (FRAME, BOX, 2.0, 0, ValueError, "size must be positive, got 0"),
    (FRAME, BOX, -1.0, 16, ValueError, "factor must be a positive number, got -1.0"),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("frame", "box", "factor", "size", "error", "message"), BAD_CALLS)
def test_bad_calls(frame, box, factor, size, error, message, backend) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.crop_resize(frame, box, factor, size, backend=backend)
    assert message in str(caught.value)


BAD_OUTPUTS = [
    (torch.empty(16, 768), 65, ValueError, "size must be a multiple of 16, got 65"),
    (torch.empty(15, 768), 64, ValueError, "out must be (16, 768) with rows adjacent in themselves, got (15, 768)"),
    (torch.empty(768, 16).T, 64, ValueError, "strides (1, 16)"),
    (torch.empty(1, 768).expand(16, 768), 64, ValueError, "strides (0, 1)"),
    (torch.empty(16, 768, dtype=torch.float64), 64, TypeError, "out must be float32 or bfloat16, got torch.float64"),
    (torch.empty(16, 768, device="meta"), 64, ValueError, "out must be on the CPU, got meta"),
]


@pytest.mark.parametrize(("out", "size", "error", "message"), BAD_OUTPUTS)
def test_bad_outputs(out, size, error, message) -> None:
    with pytest.raises(error) as caught:
        esat_kernels.crop_patches(FRAME, BOX, 2.0, size, out)
    assert message in str(caught.value)


def test_the_named_backend_does_not_fall_back() -> None:
    require("cpu", _native.unavailable())
    with pytest.raises(NotImplementedError, match=r"crop: backend 'cpu' cannot run: size must be at most 2048, got 3000"):
        esat_kernels.crop_resize(FRAME, BOX, 2.0, 3000, backend="cpu")
    assert esat_kernels.crop_resize(FRAME, BOX, 2.0, 3000)[0].shape == (3000, 3000, 3)  # auto: the reference
    with pytest.raises(NotImplementedError, match="has no kernel for this operation"):
        esat_kernels.crop_resize(FRAME, BOX, 2.0, 16, backend="triton")


def test_rows_beyond_32_bit_offsets_go_to_the_reference() -> None:
    require("cpu", _native.unavailable())
    wide = np.broadcast_to(np.array([[[1, 2, 3]]], np.uint8), (2, 716_000_000, 3))
    box = (715_999_000.0, 0.0, 100.0, 1.0)
    crop, _ = esat_kernels.crop_resize(wide, box, 0.1, 1)
    assert crop.tolist() == [[[1, 2, 3]]]
    planes = esat_kernels.Nv12(wide[:, :, 0], np.broadcast_to(np.uint8(128), (1, 358_000_000, 2)), "bt601")
    for frame in (wide, planes):
        with pytest.raises(NotImplementedError, match="the frame's width must be at most 536870911, got 716000000"):
            esat_kernels.crop_resize(frame, box, 0.1, 1, backend="cpu")


def test_auto_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu", _native.unavailable())

    def refuse(*_: object) -> None:
        raise AssertionError("the reference ran")

    monkeypatch.setattr(reference, "crop_resize", refuse)
    monkeypatch.setattr(reference, "crop_patches", refuse)
    esat_kernels.crop_resize(FRAME, BOX, 2.0, 16)
    esat_kernels.crop_patches(FRAME, BOX, 2.0, 16, torch.empty(1, 768))
