"""`esat info`."""

from __future__ import annotations

from typing import Annotated

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False) -> None:
    """Show versions, processor, devices, backends with the reason why one cannot run, and the shipped weights."""
    import json

    from rich.markup import escape

    from engine.cli.machine import describe, device_name
    from engine.cli.terminal import terminal

    about = describe()
    if as_json:
        typer.echo(json.dumps(about, indent=1))
        return
    console = terminal(highlight=False)
    console.print("[bold]versions[/]  " + "  ".join(f"{name} {version or 'absent'}" for name, version in about["versions"].items()))
    cpu = about["cpu"]
    console.print(f"[bold]processor[/] {cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads")
    console.print(f"          has {' '.join(cpu['instruction_sets']) or 'unknown extensions'}")
    console.print(f"          kernels use: {escape(cpu['kernels_use'])}", soft_wrap=True)
    console.print(f"          OpenMP: {', '.join(about['openmp']) or 'none loaded'}")
    if cpu["kernels"]:
        console.print("[bold]kernels[/]   sets that each has, the best first; the one in use is marked")
    for row in cpu["kernels"]:
        sets = " ".join(f"[green]*{name}[/]" if name == row["chosen"] else name for name in row["sets"])
        console.print(f"  {row['operation']:30} {sets}" + ("" if row["chosen"] else "  [yellow]none here: PyTorch[/]"), soft_wrap=True)
    parts = (("devices", "devices"), ("backends", "backends"), ("CPU engine", "cpu_engine"), ("fp8", "fp8"))
    for title, states in ((title, about[name]) for title, name in parts):
        if states:
            console.print(f"[bold]{title}[/]")
        for name, reason in states.items():
            good = device_name(name) if title == "devices" and reason is None else "can run"
            console.print(
                f"  {name:10} " + (f"[green]{good}[/]" if reason is None else f"[yellow]no: {escape(str(reason))}[/]"), soft_wrap=True
            )
    console.print(f"[bold]CUDA library[/] {escape(about['cuda_library'] or 'none')}", soft_wrap=True)
    for name, said in about["tuned"].items():
        console.print(f"[bold]measured on[/] {name}: {escape(said)}", soft_wrap=True)
    console.print("[bold]weights[/]")
    for name, file in about["weights"].items():
        console.print(f"  {name:10} {file['mib']} MiB  sha256 {file['sha256']}\n  {'':10} {file['path']}", soft_wrap=True)
    if not about["weights"]:
        console.print("  none shipped in this installation: pass a .safetensors file with --model")
