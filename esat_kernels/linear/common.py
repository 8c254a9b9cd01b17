"""What the backends of the linear layer share."""

from __future__ import annotations

from typing import NamedTuple


class Squares(NamedTuple):
    """Which sums of squares a product leaves: of `groups` groups of `width` columns, the first group at column `first`."""

    first: int
    width: int
    groups: int
