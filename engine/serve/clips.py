"""The clips that the page may show: the files of one folder and what was uploaded, under names that cannot leave it."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from engine.errors import SourceError
from engine.video.listing import VIDEO_SUFFIXES, video_paths

_UPLOAD_ID = re.compile(r"upload-[0-9a-f]{16}\.[a-z0-9]{2,4}")


class UploadError(SourceError):
    """An upload that is too large or of a kind that is not served."""


@dataclasses.dataclass(frozen=True)
class ClipStore:
    """folder: clips offered as they are (None: no folder); uploads: where uploads go; max_bytes: the largest upload."""

    folder: Path | None
    uploads: Path
    max_bytes: int

    def names(self) -> list[str]:
        """The clips of the folder, by name."""
        if self.folder is None:
            return []
        return [path.name for path in video_paths(self.folder) if self._served(path)]

    def path(self, clip_id: str) -> Path:
        """The file of a clip: one that `names` lists or `store` returned. SourceError for anything else, such as paths out of the folder."""
        if _UPLOAD_ID.fullmatch(clip_id):
            path = self.uploads / clip_id
            if path.is_file():
                return path
        elif self.folder is not None and clip_id in self.names():
            return self.folder / clip_id
        raise SourceError(f"there is no clip {clip_id!r}")

    async def store(self, name: str, chunks: AsyncIterator[bytes]) -> str:
        """Keep an upload under a new id, whatever its name but for the suffix. UploadError if it is too large or no video by its name."""
        suffix = Path(name).suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            raise UploadError(f"cannot take {name!r}: expected a video ({', '.join(sorted(VIDEO_SUFFIXES))})")
        clip_id = f"upload-{secrets.token_hex(8)}{suffix}"
        path, size = self.uploads / clip_id, 0
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.max_bytes:
                        raise UploadError(f"{name!r} is larger than the limit of {self.max_bytes / 2**20:g} MiB")
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return clip_id

    def _served(self, path: Path) -> bool:
        """A file that really lies in the folder: no link that leads out of it."""
        assert self.folder is not None
        return path.is_file() and path.resolve().parent == self.folder.resolve()
