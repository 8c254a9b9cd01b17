"""`esat serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_GRACE = 3  # seconds that pages which are open get when the server ends


def serve(
    folder: Annotated[Path | None, typer.Argument(help="Folder whose videos the page offers.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    model: Annotated[str, typer.Option(help="A preset's name or a .safetensors file.")] = "esat-s-256",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8 or fp8.")] = "auto",
    cameras: Annotated[bool, typer.Option("--cameras", help="Offer this machine's cameras.")] = False,
    max_upload: Annotated[float, typer.Option(help="Largest upload in MiB.")] = 200.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name that the page is reached by, such as a proxy's; *.example.org too; repeatable."),
    ] = None,
) -> None:
    """Open a local page: choose a clip, draw a box with the mouse, watch the tracker live. Metrics for Prometheus at /metrics.

    Only this machine's names, --host and those of --allow-host are answered. A proxy may serve the page below any path that it takes off.
    """
    import socket
    import tempfile

    from engine.cli.terminal import terminal
    from engine.errors import ConfigError, SourceError
    from engine.tracking.tracker import open_runner

    try:
        import uvicorn

        from engine.serve.app import create_app
    except ImportError as error:
        raise ConfigError(f"the page needs more packages ({error.name}): pip install 'esat-engine[serve]'") from error
    from engine.files import no_folder
    from engine.serve.clips import ClipStore
    from engine.serve.hosts import check_names

    if folder is not None and not folder.is_dir():
        raise SourceError(no_folder(folder))
    if max_upload <= 0:
        raise ConfigError(f"--max-upload must be positive, got {max_upload:g}")
    names = check_names(allow_host or [])
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    runner = open_runner(model, device, dtype, "auto")
    with listener, tempfile.TemporaryDirectory(prefix="esat-uploads-") as uploads:
        clips = ClipStore(folder, Path(uploads), int(max_upload * 2**20))
        app = create_app(runner, clips, cameras, host, names)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        terminal().print(f"{runner.config.name} on {runner.device} ({runner.dtype}): open {address}, end with Ctrl-C", highlight=False)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE)).run(sockets=[listener])
