"""Files that appear under their name only when they are complete: outputs, results, weights."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.errors import SinkError


def no_folder(path: Path) -> str:
    """What to say of a path that is no folder."""
    return f"{path} is a file, expected a folder" if os.path.exists(path) else f"no such folder: {path}"


def check_apart(files: Mapping[str, Path]) -> None:
    """SinkError where two of these, named by what they are, are the same file."""
    seen: dict[str, str] = {}
    for name, path in files.items():
        other = seen.setdefault(os.path.normcase(os.path.realpath(path)), name)
        if other != name:
            raise SinkError(f"cannot write {path}: it is {other} as well")


class PendingFile:
    """A temporary file beside `target`: `publish` gives it its name, `discard` removes it. Missing folders are made.

    Where `target` is a link, it stays one, and the file behind it is replaced. Raises SinkError if the folder cannot be made or written, the
    name cannot be given, or belongs to something else than a regular file. `partial` is the path to write to. As a context manager it publishes
    at the end or, after an error, discards; an OSError becomes a SinkError that names the target.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        if str(target) == "-":
            raise SinkError("cannot write -: expected the name of a file, since this output does not go to standard output")
        self._place = Path(os.path.realpath(target)) if os.path.islink(target) else target
        folder = self._place.parent
        if os.path.isdir(target):
            raise SinkError(f"cannot write {target}: it is a folder")
        if os.path.exists(target) and not os.path.isfile(target):
            raise SinkError(f"cannot write {target}: it is a pipe or a device, expected a regular file or none")
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise SinkError(f"cannot write {target}: {folder} is not a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.stat(self._place)  # a name that is too long is told now, not when the file is complete
            handle, name = tempfile.mkstemp(prefix=".esat.", suffix=".partial", dir=folder)
            os.close(handle)
        except OSError as error:
            raise SinkError(f"cannot write {target}: {error.strerror}") from error
        self.partial = Path(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return self.publish()
        self.discard()
        if isinstance(error, OSError) and not isinstance(error, SinkError):
            raise SinkError(f"cannot write {self.target}: {error.strerror or error}") from error

    def publish(self) -> None:
        """Give the finished file its name, replacing an older one."""
        try:
            umask = os.umask(0)
            os.umask(umask)
            self.partial.chmod(0o666 & ~umask)  # mkstemp's files are readable for the owner alone
            os.replace(self.partial, self._place)
        except OSError as error:
            self.discard()
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error

    def discard(self) -> None:
        self.partial.unlink(missing_ok=True)
