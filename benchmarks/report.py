"""All benchmarks on this machine, and one Markdown report of them with pictures and a comparison with an earlier report.

    python -m benchmarks.report [--out DIR] [--only attention,frame,table2] [--quick] [--compare DIR]

Each part runs in a process of its own and leaves DIR/PART.json; DIR/report.md and its pictures are made from those files alone. An interrupted
run goes on with the parts that are missing, or were made by other arguments or another commit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import report_text
from benchmarks.harness import choices, machine
from benchmarks.report_text import Part
from engine.cli.exits import run_function
from engine.cli.lines import say
from engine.errors import ConfigError, EsatError

# Part -> arguments of its module, in full and quickly (about seven minutes in all on two cores).
PARTS = {
    "attention": ([], ["--tokens", "720,343", "--inputs", "normal", "--impls", "ours,sdpa,eager,compiled", "--seconds", "1"]),
    "frame-esat-384": (["--model", "esat-384"], ["--model", "esat-384", "--peers", "eager,onnxruntime,openvino", "--seconds", "20"]),
    "frame-esat-s-256": (["--model", "esat-s-256"], ["--model", "esat-s-256", "--peers", "eager,onnxruntime,openvino", "--seconds", "10"]),
    "table2": ([], ["--seconds", "1"]),
}
KINDS = ("attention", "frame", "table2")


class BenchmarkError(EsatError):
    """A benchmark that did not run to its end."""


def read_part(path: Path) -> Part:
    """A part that `run_part` wrote. ConfigError for another file."""
    try:
        content = json.loads(path.read_text())
        return Part(path.stem, list(content["rows"]), dict(content["about"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected the rows of a benchmark: {type(error).__name__}: {error}") from error


def run_part(name: str, arguments: list[str], folder: Path) -> Part:
    """Run one benchmark and keep its rows. BenchmarkError if it did not run to its end."""
    about: dict[str, Any] = {**machine(), "arguments": arguments}
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.jsonl"
        module = f"benchmarks.{name.partition('-')[0]}"
        code = _run(module, [*arguments, "--json", str(rows)])
        if code not in (0, 1):  # 1: a row failed its accuracy check, which the report shows
            raise BenchmarkError(f"{module} ended with exit code {code}")
        content = {"about": about, "rows": [_plain(json.loads(line)) for line in rows.read_text().splitlines()]}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return read_part(path)


def _run(module: str, arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", module, *arguments]).returncode


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Without the machine's description, which stands once beside the rows."""
    return {name: value for name, value in row.items() if name != "machine"}


def _reusable(path: Path, arguments: list[str]) -> Part | None:
    """The part, if the same commit made it with the same arguments."""
    if not path.is_file():
        return None
    part, here = read_part(path), machine()
    same = part.about.get("arguments") == arguments and all(part.about.get(name) == here[name] for name in ("cpu", "commit", "threads"))
    return part if same and not here["dirty"] and not part.about.get("dirty") else None


def main(
    out: Annotated[Path, typer.Option(help="Folder for the rows and the report.")] = Path("out/bench"),
    only: Annotated[str, typer.Option(help="Which benchmarks, with commas.")] = ",".join(KINDS),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and peers, less time for each.")] = False,
    device: Annotated[str, typer.Option(help="Where table 2's frames/s are measured: cpu or cuda.")] = "cpu",
    against: Annotated[Path | None, typer.Option("--compare", help="Folder of an earlier report.")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Run nothing: a new report from the parts that are there.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what is there already.")] = False,
) -> None:
    """Run the benchmarks and write one report."""
    kinds = choices(only, KINDS, "--only")
    if against is not None and not against.is_dir():
        raise ConfigError(f"--compare: no such folder: {against}")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    parts = []
    chosen = {name: arguments_of for name, arguments_of in PARTS.items() if name.partition("-")[0] in kinds}
    for number, (name, arguments_of) in enumerate(chosen.items(), 1):
        path, arguments = out / f"{name}.json", list(arguments_of[quick])
        if name == "table2":
            arguments += ["--measure", device]
        part = read_part(path) if reuse and path.is_file() else None if fresh or reuse else _reusable(path, arguments)
        if part is None and not reuse:
            start = time.monotonic()
            say(f"{number} of {len(chosen)} benchmarks: {name} begins")
            part = run_part(name, arguments, out)
            say(f"{number} of {len(chosen)} benchmarks: {name} took {time.monotonic() - start:.0f} s")
        elif part is not None:
            say(f"{number} of {len(chosen)} benchmarks: {name} is used again ({path})")
        parts += [part] if part is not None else []
    before = {
        part.name: read_part(against / f"{part.name}.json") for part in parts if against and (against / f"{part.name}.json").is_file()
    }
    console.print(report_text.write(out, parts, before), highlight=False)


if __name__ == "__main__":
    run_function(main)
