"""Frames as a user may pass them in."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import FrameError
from esat_kernels import Nv12

Frame: TypeAlias = NDArray[np.uint8] | Tensor | Nv12  # uint8 [H, W, 3], or the planes of Nv12; `shape` starts with H, W for all of them


def check_frame(frame: Any, *tensors_on: torch.device) -> Frame:
    """The frame, a NumPy array or a PyTorch tensor, as uint8 [H, W, 3]: of grey frames three equal channels, without a fourth (alpha).

    Tensors on one of the devices `tensors_on` stay tensors, others become arrays. Nothing is copied of an array or of a tensor in the CPU's
    memory, whatever its strides, but for grey frames. A tensor on a device that is not listed is copied to the host, which waits for the work that
    makes it. The planes of an `Nv12` frame are treated likewise. FrameError for anything else: other dtypes are refused, since only the caller
    knows their range, and so is [C, H, W].
    """
    if isinstance(frame, Nv12):
        problem = frame.problem()
        if problem is not None:
            raise FrameError(problem)
        return Nv12(_placed(frame.luma, tensors_on), _placed(frame.chroma, tensors_on), frame.matrix)
    tensor = isinstance(frame, Tensor)
    if not (tensor or isinstance(frame, np.ndarray)):
        raise FrameError(f"frame must be a NumPy array or PyTorch tensor uint8 [H, W, 3], or Nv12, got {type(frame).__name__}")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise FrameError(
            f"frame must be uint8 with values 0 to 255, got {frame.dtype}: convert it first (16-bit: frame >> 8; [0, 1] floats: 255 * frame)"
        )
    shape = tuple(frame.shape)
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        turned = "frame.permute(1, 2, 0)" if tensor else "frame.transpose(1, 2, 0)"
        raise FrameError(f"frame must be [H, W, 3], got {shape}, which looks like [C, H, W]: pass {turned}")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        raise FrameError(f"frame must be [H, W, 3], [H, W] or [H, W, 4] with H, W > 0, got {shape}")
    image = _placed(frame, tensors_on)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        image = image.expand(-1, -1, 3) if isinstance(image, Tensor) else np.repeat(image, 3, axis=2)
    return image[:, :, :3] if image.shape[2] == 4 else image


def host_frame(frame: Frame) -> NDArray[np.uint8] | Nv12:
    """`check_frame` for those who read arrays alone."""
    checked = check_frame(frame)
    assert not isinstance(checked, Tensor)
    return checked


def _placed(plane: NDArray[np.uint8] | Tensor, tensors_on: tuple[torch.device, ...]) -> NDArray[np.uint8] | Tensor:
    if isinstance(plane, np.ndarray) or plane.device in tensors_on:
        return plane
    return plane.detach().cpu().numpy()


def planes_of(frame: Frame) -> tuple[NDArray[np.uint8] | Tensor, ...]:
    """Luma and chroma of an `Nv12` frame, else the frame itself."""
    return (frame.luma, frame.chroma) if isinstance(frame, Nv12) else (frame,)


def matrix_of(frame: Frame) -> str | None:
    """The matrix of an `Nv12` frame, whose crops are RGB whatever a tracker's colour order; None: the frame has three channels."""
    return frame.matrix if isinstance(frame, Nv12) else None


def flat_pixels(frame: Frame) -> Tensor | None:
    """A frame of tensors as `esat_kernels.crop_regions` reads it, uint8 [bytes]; None: it consists of arrays."""
    flat = [plane.reshape(-1) for plane in planes_of(frame) if isinstance(plane, Tensor)]
    return None if not flat else flat[0] if len(flat) == 1 else torch.cat(flat)


def made_by(ready: Any, device: torch.device | None, *frames: Frame) -> contextlib.AbstractContextManager[object]:
    """Within, the current CUDA stream is one whose work comes behind `ready`, the stream or event that a caller's frames are finished with.

    device: where the frames are read. Where that is no GPU, or not all frames lie there, or `ready` is another GPU's stream, the host waits. None for
    `ready`: the caller's current stream makes the frames, and stays. FrameError for anything but a torch.cuda.Stream or torch.cuda.Event.
    """
    if ready is None:
        return contextlib.nullcontext()
    if not isinstance(ready, torch.cuda.Stream | torch.cuda.Event):
        raise FrameError(f"ready must be a torch.cuda.Stream or a torch.cuda.Event, got {type(ready).__name__}")
    planes = [plane for frame in frames for plane in planes_of(frame)]
    there = device is not None and device.type == "cuda" and all(isinstance(plane, Tensor) and plane.device == device for plane in planes)
    if device is None or not there or (isinstance(ready, torch.cuda.Stream) and ready.device != device):
        ready.synchronize()
        return contextlib.nullcontext()
    if isinstance(ready, torch.cuda.Stream):
        return torch.cuda.stream(ready)
    waiting = _waiting_stream(device)
    waiting.wait_event(ready)
    return torch.cuda.stream(waiting)


@functools.cache
def _waiting_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream that has no work but waits."""
    return torch.cuda.Stream(device)
