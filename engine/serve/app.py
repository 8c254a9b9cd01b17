"""The HTTP interface: the page, clips, a WebSocket for tracking, metrics."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse

from engine.boxes import check_box
from engine.errors import EsatError, SourceError
from engine.runners.protocol import Runner
from engine.serve.clips import ClipStore, UploadError
from engine.serve.hosts import KnownHosts, same_origin
from engine.serve.live import MOST_TARGETS, Command, LiveRun, encode
from engine.serve.metrics import Metrics
from engine.video import Reader, Source, open_source

_PAGE = Path(__file__).parent / "static" / "index.html"
_ANY_FRAME = 1 << 20  # pixels; the tracker checks the box against the real frame
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
}


def create_app(runner: Runner, clips: ClipStore, cameras: bool = False, bound: str = "127.0.0.1", allowed: Sequence[str] = ()) -> FastAPI:
    """The application. All runs share `runner`; cameras: whether the machine's cameras are offered.

    bound: the address that is listened on; allowed: other names that it is reached by (see `hosts.check_names`), such as a proxy's.
    """
    app = FastAPI(title="ESAT", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(KnownHosts, bound=bound, allowed=allowed)
    metrics, in_turn = Metrics(), threading.Lock()

    def source_of(clip_id: str) -> Source:
        if clip_id.startswith("camera-") and cameras and clip_id.removeprefix("camera-").isdigit():
            return open_source(int(clip_id.removeprefix("camera-")))
        return open_source(clips.path(clip_id))

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(_PAGE, headers=_HEADERS)

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        return {
            "model": runner.config.name,
            "device": runner.device,
            "dtype": runner.dtype,
            "clips": clips.names(),
            "cameras": cameras,
            "max_upload_mib": clips.max_bytes / 2**20,
        }

    @app.put("/api/clips/{name}")
    async def upload(name: str, request: Request) -> dict[str, str]:
        try:
            return {"clip": await clips.store(name, request.stream())}
        except UploadError as error:
            raise HTTPException(413 if "larger" in str(error) else 415, str(error)) from error

    @app.get("/api/clips/{clip_id}/first-frame")
    def first_frame(clip_id: str) -> Response:
        try:
            with source_of(clip_id) as source:
                image = next(iter(source)).image
        except StopIteration as error:
            raise HTTPException(422, f"{clip_id}: no frame") from error
        except SourceError as error:
            raise HTTPException(404 if "no clip" in str(error) else 422, " ".join(str(error).split())) from error
        picture, _ = encode(image)
        size = {"X-Frame-Width": str(image.shape[1]), "X-Frame-Height": str(image.shape[0])}
        return Response(picture, media_type="image/jpeg", headers=size)

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.websocket("/api/track")
    async def track(socket: WebSocket) -> None:
        """The browser sends {"clip", "boxes"}, then commands when it likes; it gets a JSON text and a JPEG for each frame.

        Commands: {"add": box, "index"}, {"restart": id, "box", "index"}, {"remove": id}, {"pause": true or false}, {"stop": true}; `index` is
        the frame that the box was drawn on. A command that cannot be carried out is answered by {"type": "note", "reason"}.
        Only the served page may connect: other sites in the same browser could otherwise watch its cameras.
        """
        if not same_origin(socket.headers, allowed):
            await socket.close(1008)
            return
        await socket.accept()
        try:
            run = await asyncio.to_thread(_open, await socket.receive_text())
            await _serve(socket, LiveRun(runner, in_turn, *run, metrics))
        except EsatError as error:
            await socket.send_text(json.dumps({"type": "error", "reason": " ".join(str(error).split())}))
        except WebSocketDisconnect:
            return
        await socket.close()

    def _open(text: str) -> tuple[Source, Any]:
        try:
            request = json.loads(text)
            clip, boxes = str(request["clip"]), list(request["boxes"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError('expected {"clip": ..., "boxes": [[x, y, w, h], ...]}') from error
        if not 0 < len(boxes) <= MOST_TARGETS:
            raise SourceError(f"expected 1 to {MOST_TARGETS} boxes, got {len(boxes)}")
        checked = [check_box(box, _ANY_FRAME, _ANY_FRAME) for box in boxes]
        return Reader(source_of(clip)), checked

    return app


async def _serve(socket: WebSocket, run: LiveRun) -> None:
    async def listen() -> None:
        try:
            while True:
                request = json.loads(await socket.receive_text())
                if request.get("stop"):
                    break
                _carry_out(request, run)
        except (WebSocketDisconnect, ValueError, AttributeError, KeyError, TypeError):
            pass
        run.stop()

    listener = asyncio.create_task(listen())
    try:
        async for message in run.messages():
            await socket.send_text(message.text)
            if message.picture is not None:
                await socket.send_bytes(message.picture)
    finally:
        listener.cancel()


def _carry_out(request: dict[str, Any], run: LiveRun) -> None:
    """Hand a command of the page to the run; ValueError for what is none."""
    index = request.get("index")
    if not (index is None or isinstance(index, int)):
        raise ValueError(f"index must be an integer, got {index!r}")
    if "pause" in request:
        run.pause(bool(request["pause"]))
    elif "add" in request:
        run.ask(Command(request["add"], None, index))
    elif "restart" in request:
        run.ask(Command(request["box"], int(request["restart"]), index))
    elif "remove" in request:
        run.ask(Command(None, int(request["remove"])))
    else:
        raise ValueError(f"unknown command {sorted(request)}")
