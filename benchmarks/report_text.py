"""The report as Markdown: the machine, a section with table and picture for each benchmark, and the comparison with an earlier report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks import attention, frame, report_compare, table2_report
from engine.evaluation.tables import markdown_table

Row = dict[str, Any]

# Column -> digits; the columns that a reader compares first.
_COLUMNS = {
    "attention": {
        "inputs": 0,
        "dtype": 0,
        "tokens": 0,
        "impl": 0,
        "median_us": 0,
        "p99_us": 0,
        "ratio_to_sdpa": 2,
        "ratio_to_ours": 2,
        "note": 0,
    },
    "frame": {"scope": 0, "impl": 0, "dtype": 0, "median_ms": 1, "p99_ms": 1, "fps": 1, "ratio_to_ours": 2, "note": 0},
}
_NOTES = {
    "attention": (
        "Force-directed attention, 12 heads of 64, batch 1: ours and its peers in turn in one process. `sdpa` is PyTorch's plain attention, "
        "which computes no force. A row without times did not run or failed its accuracy check; its note says why."
    ),
    "frame": (
        "One frame, batch 1. `network` starts at normalised images in memory, ours at the encoded template and the region's patches; `tracker` "
        "is crop, network and decode on 1920 x 1080. `alpha=beta=0` is the same engine without the force."
    ),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One benchmark's rows, and where and how they were measured. `name` begins with its module: frame-esat-384."""

    name: str
    rows: list[Row]
    about: Row  # machine() and the arguments

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


def write(folder: Path, parts: list[Part], before: dict[str, Part]) -> Path:
    """Write report.md and its pictures into `folder`."""
    text = ["# Benchmarks\n", _machines(parts)]
    for part in parts:
        text += _section(part, folder)
        if part.name in before:
            text += _comparison(part, before[part.name], folder)
    path = folder / "report.md"
    path.write_text("\n".join(text))
    return path


def _machines(parts: list[Part]) -> str:
    """The description as a table with a column for each distinct value: parts may be of different commits."""
    names = list(dict.fromkeys(name for part in parts for name in part.about if name != "arguments"))
    rows = [[name, "; ".join(dict.fromkeys(_text(part.about.get(name)) for part in parts))] for name in names]
    return markdown_table(["machine", "value"], rows)


def _section(part: Part, folder: Path) -> list[str]:
    command = f"`python -m benchmarks.{part.kind} {' '.join(part.about.get('arguments', []))}`".replace(" `", "`")
    text = [f"## {part.name}\n", f"{command}\n"]
    if part.kind == "table2":
        devices = sorted({device for device, _ in table2_report.measured(part.rows)})
        tables = [f"{device}:\n\n{markdown_table(*table2_report.table(part.rows, device))}" for device in devices]
        for device in devices:
            table2_report.plot(part.rows, device, folder / f"table2-{device}.png")
        pictures = [f"![frames/s on {device}](table2-{device}.png)\n" for device in devices]
        return [*text, *(tables or [markdown_table(*table2_report.table(part.rows))]), *pictures]
    text += [f"{_NOTES[part.kind]}\n", markdown_table(*_table(part))]
    timed = [row for row in part.rows if any(row.get(time) for time in report_compare.TIMES)]
    if timed:
        (attention.plot if part.kind == "attention" else frame.plot)(timed, folder / f"{part.name}.png")
        text.append(f"![medians]({part.name}.png)\n")
    return text


def _table(part: Part) -> tuple[list[str], list[list[str]]]:
    columns = _COLUMNS[part.kind]
    cells = [[_cell(_note(row) if name == "note" else row.get(name), digits) for name, digits in columns.items()] for row in part.rows]
    return [name.replace("_", " ") for name in columns], cells


def _note(row: Row) -> str:
    reason = row.get("reason") or row.get("error")
    return f"failed: {reason}" if reason else "" if row.get("ok", True) else "failed its accuracy check"


def _comparison(part: Part, before: Part, folder: Path) -> list[str]:
    rows = report_compare.compare(part.rows, before.rows)
    if not rows:
        return []
    report_compare.plot(rows, folder / f"{part.name}-comparison.png")
    changed = [row for row in rows if row["changed"] != "within the noise"]
    differences = report_compare.differences(part.about, before.about)
    head = [*(name for name in rows[0])]
    cells = [[_cell(value, 3 if name in ("ratio", "spread") else 1) for name, value in row.items()] for row in rows]
    summary = f"{len(changed)} of {len(rows)} rows outside the noise." + (
        f" Not the same: {'; '.join(differences)}." if differences else ""
    )
    return [
        f"### {part.name}, against the earlier report\n",
        f"{summary}\n",
        markdown_table(head, cells),
        f"![ratios]({part.name}-comparison.png)\n",
    ]


def _cell(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    return "" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
