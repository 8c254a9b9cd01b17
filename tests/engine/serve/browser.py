"""A server on a free port of this machine and a headless Chromium that looks at it."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

from engine.runners.protocol import Runner
from engine.serve.clips import ClipStore

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def serving(runner: Runner, clips: ClipStore, below: str = "") -> Iterator[str]:
    """The application as `esat serve` runs it, below a path as behind a proxy; gives its address."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from engine.serve.app import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(runner, clips)
    outer = Starlette(routes=[Mount(below, app)]) if below else app
    server = uvicorn.Server(uvicorn.Config(outer, log_level="warning", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{below}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


@contextlib.contextmanager
def open_page(address: str) -> Iterator[Any]:
    """The page in a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(address)
        see(page, "#model", re.compile("."))
        yield page
        browser.close()


def see(page: Any, place: str, text: str | re.Pattern[str]) -> None:
    """Wait until the text stands there."""
    from playwright.sync_api import expect

    expect(page.locator(place)).to_have_text(text, timeout=60_000)


def draw_box(page: Any, x: float, y: float, w: float, h: float) -> None:
    """A box in frame pixels, drawn with the mouse."""
    area = page.locator("#view").bounding_box()
    factor = area["width"] / page.evaluate("frameSize[0]")
    page.mouse.move(area["x"] + x * factor, area["y"] + y * factor)
    page.mouse.down()
    page.mouse.move(area["x"] + (x + w) * factor, area["y"] + (y + h) * factor, steps=4)
    page.mouse.up()
