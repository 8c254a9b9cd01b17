"""Run the command line in this process."""

from __future__ import annotations

import pytest

from engine.cli.app import main


def esat(*arguments: object) -> int:
    """Run `esat` with these arguments and give its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code if isinstance(ended.value.code, int) else 0 if ended.value.code is None else 1
