"""A person's way through the page, in a real headless Chromium: choose, draw, track, lose, stop."""

import importlib.util
import re

import pytest

from engine.serve.clips import ClipStore
from engine.tracking.state import TargetState
from tests.engine.serve.browser import CHROMIUM, draw_box, open_page, see, serving
from tests.require import require


@pytest.fixture
def address(runner, clip_folder, tmp_path):
    with serving(runner, ClipStore(clip_folder, tmp_path, 10**6)) as place:
        yield place


@pytest.fixture
def page(address):
    require("browser", None if importlib.util.find_spec("playwright") else "not installed: playwright")
    require("browser", None if CHROMIUM else "no chromium on this machine")
    with open_page(address) as opened:
        yield opened


def test_choose_draw_track(page):
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", "Draw a box around the target with the mouse.")
    assert page.locator("#start").is_disabled()
    draw_box(page, 100, 80, 40, 60)
    assert page.locator("#hint").inner_text() == "Box 100, 80, 40, 60: press track."
    page.click("#start")
    see(page, "#hint", "Done: end of the clip.")
    assert page.locator("#index").inner_text() == "11"
    assert page.locator("#state").inner_text() in ("TRACKING", "UNCERTAIN", "LOST")
    assert 0 < float(page.locator("#score").inner_text()) < 1
    assert page.locator("#stages dt").all_inner_texts() == ["crop", "network", "decode", "total"]
    assert problems == []


def test_stop_and_a_box_that_is_too_small(page):
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", "Draw a box around the target with the mouse.")
    draw_box(page, 100, 80, 1, 1)
    assert "too small" in page.locator("#hint").inner_text()
    draw_box(page, 100, 80, 40, 60)
    page.click("#start")
    see(page, "#index", re.compile("[0-9]"))
    page.click("#stop")
    see(page, "#hint", re.compile("^Done: (stopped|end of the clip)"))
    assert page.locator("#start").is_enabled()


def test_upload(page, clip_folder):
    page.set_input_files("#file", str(clip_folder / "clip.mp4"))
    see(page, "#hint", "Draw a box around the target with the mouse.")
    page.set_input_files("#file", str(clip_folder / "notes.txt"))
    see(page, "#hint", re.compile("cannot take 'notes.txt'"))
    assert page.locator("#hint").get_attribute("class") == "error"


def test_a_target_is_lost_and_the_overlay_shows_what_was_eliminated(page, monkeypatch):
    """From the sixth frame on every score is low, as if the target had left."""
    from engine.tracking.target import Target

    advance = Target.advance

    def fading(self, seen, *arguments):
        score = 0.9 if self._frame_index < 5 else 0.01
        return advance(self, seen.__class__(seen.box, seen.region_side, score, score, seen.kept_tokens), *arguments)

    monkeypatch.setattr(Target, "advance", fading)
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", re.compile("^Draw"))
    draw_box(page, 100, 80, 40, 60)
    page.click("#start")
    see(page, "#hint", "Done: end of the clip.")
    assert page.locator("#state").inner_text() == TargetState.LOST
    assert page.locator("#state").get_attribute("class") == "LOST"
    assert int(page.locator("#lost").inner_text()) > 0
    assert page.locator("#kept").inner_text() == "89 of 256"
    shown = page.evaluate("document.getElementById('view').toDataURL()")
    page.uncheck("#tokens")
    assert page.evaluate("document.getElementById('view').toDataURL()") != shown


def test_a_clip_above_the_limit_is_refused_before_it_is_sent(page, tmp_path):
    (tmp_path / "long.mp4").write_bytes(bytes(1_500_000))
    page.set_input_files("#file", str(tmp_path / "long.mp4"))
    see(page, "#hint", "long.mp4 has 1.4 MiB, the limit is 1.0 MiB.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mp4"]


def test_a_server_that_went_away_is_named(page):
    page.route("**/first-frame", lambda route: route.abort())
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", "The server does not answer: is `esat serve` still running?")
