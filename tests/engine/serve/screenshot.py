"""Take the README's picture of the page: `python -m tests.engine.serve.screenshot CLIP X,Y,W,H FRAME docs/serve.png`."""

from __future__ import annotations

import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from engine.serve.clips import ClipStore
from engine.tracking.tracker import open_runner
from tests.engine.serve.browser import draw_box, open_page, see, serving


def main() -> None:
    clip, box, frame, target = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(clip, folder)
        runner = open_runner("esat-s-256", "auto", "auto", "auto")
        with serving(runner, ClipStore(folder, folder, 10**7)) as address, open_page(address) as page:
            page.select_option("#clips", Path(clip).name)
            see(page, "#hint", re.compile("^Draw"))
            draw_box(page, *(float(value) for value in box.split(",")))
            page.click("#start")
            see(page, "#index", re.compile("[0-9]"))
            while int(page.locator("#index").inner_text()) < int(frame):
                page.wait_for_timeout(20)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(192).save(target, optimize=True)


if __name__ == "__main__":
    main()
