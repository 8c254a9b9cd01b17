"""Files that appear under their name only when they are complete: outputs, results, weights."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.errors import SinkError


class PendingFile:
    """A temporary file beside `target`: `publish` gives it its name, `discard` removes it. Missing folders are made.

    Raises SinkError if the folder cannot be made or written. `partial` is the path to write to. As a context manager it publishes at the end
    or, after an error, discards; an OSError becomes a SinkError that names the target.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        if target.is_dir():
            raise SinkError(f"cannot write {target}: it is a folder")
        if target.parent.exists() and not target.parent.is_dir():
            raise SinkError(f"cannot write {target}: {target.parent} is not a folder")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
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
            os.replace(self.partial, self.target)
        except OSError as error:
            self.discard()
            raise SinkError(f"cannot write {self.target}: {error.strerror}") from error

    def discard(self) -> None:
        self.partial.unlink(missing_ok=True)
