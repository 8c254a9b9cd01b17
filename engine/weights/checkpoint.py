"""PyTorch checkpoints (.pth, .pth.tar) read as data: tensors and plain containers come out, no code of the file is run.

Public OSTrack checkpoints hold training objects (statistics, settings) beside the parameters, which `torch.load(weights_only=True)` rejects
and `torch.load(weights_only=False)` would execute. Here every global of the pickle is looked up in an allow list; objects of known training
packages become inert placeholders; anything else refuses the whole file.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import WeightsError

# Training-time packages whose objects lie beside the parameters of public checkpoints. They are never imported.
_INERT_PACKAGES = ("lib", "ltr", "pytracking", "easydict", "yacs", "numpy", "_codecs", "argparse", "datetime", "pathlib")

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """Stands for an object of a training package: takes whatever the pickle does to it and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)  # checks the bounds of the storage


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): Inert,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("torch", "device"): Inert,
    **{("torch", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
}


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive = archive
        self._root = root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module.split(".")[0] in _INERT_PACKAGES:
            return Inert
        raise WeightsError(f"refused: it asks for {module}.{name}, which a file of parameters does not need (nothing of it was run)")

    def persistent_load(self, pid: Any) -> Tensor:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            raise WeightsError(f"unknown kind of stored object {pid!r}")
        _, dtype, key, _, _ = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def read_checkpoint(path: str | Path) -> Any:
    """The object that `torch.save` wrote to `path`, with placeholders for what is neither tensor nor plain container.

    WeightsError for a missing or damaged file, a file of PyTorch before 1.6, and any file that refers to code outside the allow list.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise WeightsError(f"checkpoint not found: {path}")
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is not a checkpoint of PyTorch 1.6 or newer (a zip archive); if it is older, save it again with a newer PyTorch"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise WeightsError(f"{path}: expected one data.pkl in the archive, found {len(pickles)}")
            return _DataUnpickler(archive, pickles[0].removesuffix("data.pkl")).load()
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise WeightsError(f"{path} is damaged or no PyTorch checkpoint: {error}") from error
