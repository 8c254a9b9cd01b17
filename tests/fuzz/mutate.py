"""Seeded damage: bytes, texts and plain values that are nearly right."""

from __future__ import annotations

import math
import random
from typing import Any

INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x80\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\x01\x00\x00\x00",
    b"..",
    b"\r\n",
    b'"',
    b"{",
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.0, 0.5, 1e-320, 1e308, math.nan, math.inf, -math.inf,
    "", "a", "1", "nan", "../../etc/passwd", "\x00", "é" * 50, [], [1], [None], [[1, 2], [3]], {}, {"a": 1}, {"": None},
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four of: cut, flip, overwrite, insert, delete, copy within. Half of them near the start, where headers are."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not result:
            break
        reach = len(result) if rng.random() < 0.5 else min(len(result), 512)
        at, length = rng.randrange(reach), rng.randint(1, 32)
        match rng.randrange(6):
            case 0:
                del result[rng.randrange(len(result)) :]
            case 1:
                result[at] ^= 1 << rng.randrange(8)
            case 2:
                piece = rng.choice(INTERESTING)
                result[at : at + len(piece)] = piece
            case 3:
                result[at:at] = rng.randbytes(length)
            case 4:
                del result[at : at + length]
            case 5:
                start = rng.randrange(len(result))
                result[at : at + length] = result[start : start + length]
    return bytes(result)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A copy of plain values (dicts, lists, leaves) in which one place holds something else, is missing, or is there twice."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(("extra", "", key + "_"))] = rng.choice(ODD_VALUES)
            case _:
                changed[key] = mutate_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        match rng.randrange(5):
            case 0:
                return value[:at]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], mutate_value(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD_VALUES)
