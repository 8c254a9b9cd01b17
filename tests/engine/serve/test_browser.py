"""A person's way through the page, in a real headless Chromium: choose, draw, track, lose, stop."""

import importlib.util
import re

import pytest

from engine.serve.clips import ClipStore
from engine.tracking.state import TargetState
from tests.engine.serve.browser import CHROMIUM, draw_box, open_page, see, serving
from tests.require import require


@pytest.fixture
def address(request, runner, clip_folder, tmp_path):
    with serving(runner, ClipStore(clip_folder, tmp_path, 10**6), getattr(request, "param", "")) as place:
        yield place


@pytest.fixture
def page(address):
    require("browser", None if importlib.util.find_spec("playwright") else "not installed: playwright")
    require("browser", None if CHROMIUM else "no chromium on this machine")
    with open_page(address) as opened:
        yield opened


@pytest.mark.parametrize("address", ["", "/behind/a-proxy"], indirect=True, ids=["alone", "below a path"])
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


def _ids(page):
    return [text.split()[0] for text in page.locator("#targets li span").all_inner_texts()]


def test_several_targets_added_corrected_and_removed(page, monkeypatch):
    """Two boxes before the run, one more while it goes on, a correction by drawing over a target, and a removal."""
    from playwright.sync_api import expect

    from engine.serve.live import LiveRun
    from engine.tracking.multi import MultiTracker

    restarted, slow = [], LiveRun._step
    monkeypatch.setattr(LiveRun, "_step", lambda self, frame: (self._stop.wait(0.6), slow(self, frame))[1])  # time to draw
    restart = MultiTracker.restart
    monkeypatch.setattr(MultiTracker, "restart", lambda self, *arguments: (restarted.append(arguments[0]), restart(self, *arguments))[1])
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", re.compile("^Draw"))
    for box in ((100, 80, 40, 60), (200, 20, 50, 50), (20, 150, 40, 40)):
        draw_box(page, *box)
    assert _ids(page) == ["1", "2", "3"]
    assert page.locator("#hint").inner_text() == "3 boxes: press track."
    draw_box(page, 22, 152, 40, 40)  # over the third
    assert _ids(page) == ["1", "2", "3"]
    page.get_by_label("remove target 3").dispatch_event("pointerdown")
    assert _ids(page) == ["1", "2"]
    page.click("#start")
    see(page, "#index", re.compile("[1-9]"))
    assert _ids(page) == ["1", "2"]
    draw_box(page, 20, 170, 40, 40)
    see(page, "#hint", re.compile("^A new target"))
    expect(page.locator("#targets li")).to_have_count(3, timeout=60_000)
    page.get_by_label("draw target 2 again").dispatch_event("pointerdown")
    draw_box(page, 250, 180, 40, 40)
    see(page, "#hint", "Target 2 is followed from its new box 250, 180, 40, 40.")
    page.get_by_label("remove target 1").dispatch_event("pointerdown")
    expect(page.locator("#targets li")).to_have_count(2, timeout=60_000)
    assert _ids(page) == ["2", "3"]
    see(page, "#hint", "Done: end of the clip.")
    assert restarted == [1]  # the tracker counts from 0
    assert problems == []


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
        faded = [one._replace(score=score, weighted_score=score, features=None) for one in seen]
        return advance(self, faded, *arguments)

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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_internal_error_ends_the_run_and_is_told(page, monkeypatch):
    from engine.tracking.target import Target

    monkeypatch.setattr(Target, "advance", lambda *arguments: 1 / 0)
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", re.compile("^Draw"))
    draw_box(page, 100, 80, 40, 60)
    page.click("#start")
    see(page, "#hint", re.compile("internal error"))


def test_a_clip_above_the_limit_is_refused_before_it_is_sent(page, tmp_path):
    (tmp_path / "long.mp4").write_bytes(bytes(1_500_000))
    page.set_input_files("#file", str(tmp_path / "long.mp4"))
    see(page, "#hint", "long.mp4 has 1.4 MiB, the limit is 1.0 MiB.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mp4"]


def test_a_server_that_went_away_is_named(page):
    page.route("**/first-frame", lambda route: route.abort())
    page.select_option("#clips", "clip.mp4")
    see(page, "#hint", "The server does not answer: is `esat serve` still running?")
