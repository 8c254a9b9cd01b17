"""Which state of the source something was made from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Commit(NamedTuple):
    """The commit's full hash, and whether tracked files differ from it."""

    hash: str
    changed: bool


def commit_of(folder: Path, *left_out: str) -> Commit | None:
    """The commit that is checked out in `folder`; None outside a repository. left_out: paths whose changes do not count."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in left_out))
        return Commit(git("rev-parse", "HEAD"), bool(changes))
    except (OSError, subprocess.SubprocessError):
        return None
