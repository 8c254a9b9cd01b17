"""A person's way through the page, in a real headless Chromium: choose, draw, track, stop."""

import importlib.util
import re
import shutil
import threading

import pytest

from tests.require import require

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def address(runner, clip_folder, tmp_path):
    """The server on a free port of this machine, as `esat serve` runs it."""
    import socket

    import uvicorn

    from engine.serve.app import create_app
    from engine.serve.clips import ClipStore

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(runner, ClipStore(clip_folder, tmp_path, 10**7)), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(address):
    require("browser", None if importlib.util.find_spec("playwright") else "not installed: playwright")
    require("browser", None if CHROMIUM else "no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        yield page
        browser.close()


def _see(page, place, text):
    """Wait until the text stands there."""
    from playwright.sync_api import expect

    expect(page.locator(place)).to_have_text(text, timeout=20_000)


def _draw(page, x, y, w, h):
    """A box in frame pixels of the 320 x 240 clip, drawn with the mouse."""
    area = page.locator("#view").bounding_box()
    factor = area["width"] / 320
    page.mouse.move(area["x"] + x * factor, area["y"] + y * factor)
    page.mouse.down()
    page.mouse.move(area["x"] + (x + w) * factor, area["y"] + (y + h) * factor, steps=4)
    page.mouse.up()


def test_choose_draw_track(page):
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.select_option("#clips", "clip.mp4")
    _see(page, "#hint", "Draw a box around the target with the mouse.")
    assert page.locator("#start").is_disabled()
    _draw(page, 100, 80, 40, 60)
    assert page.locator("#hint").inner_text() == "Box 100, 80, 40, 60: press track."
    page.click("#start")
    _see(page, "#hint", "Done: end of the clip.")
    assert page.locator("#index").inner_text() == "11"
    assert page.locator("#state").inner_text() in ("TRACKING", "UNCERTAIN", "LOST")
    assert 0 < float(page.locator("#score").inner_text()) < 1
    assert page.locator("#stages dt").all_inner_texts() == ["crop", "network", "decode", "total"]
    assert problems == []


def test_stop_and_a_box_that_is_too_small(page):
    page.select_option("#clips", "clip.mp4")
    _see(page, "#hint", "Draw a box around the target with the mouse.")
    _draw(page, 100, 80, 1, 1)
    assert "too small" in page.locator("#hint").inner_text()
    _draw(page, 100, 80, 40, 60)
    page.click("#start")
    _see(page, "#index", re.compile("[0-9]"))
    page.click("#stop")
    _see(page, "#hint", re.compile("^Done: (stopped|end of the clip)"))
    assert page.locator("#start").is_enabled()


def test_upload(page, clip_folder):
    page.set_input_files("#file", str(clip_folder / "clip.mp4"))
    _see(page, "#hint", "Draw a box around the target with the mouse.")
    page.set_input_files("#file", str(clip_folder / "notes.txt"))
    _see(page, "#hint", re.compile("cannot take 'notes.txt'"))
    assert page.locator("#hint").get_attribute("class") == "error"
