"""Make the picture of `ctfm app` that Extended Data Figure 9 and the documentation show.

``python docs/screenshot.py`` serves phantoms and a random encoder, drives the page in headless Chromium through its
four steps and writes resources/images/app.png. It needs Chromium and the development packages.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import uvicorn
from playwright.sync_api import sync_playwright

from ctfm.app import demo, serve
from ctfm.app.library import Opened
from ctfm.app.site import Site, build
from ctfm.embedding.encode import Encoder

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "resources/images/app.png"
ORGAN = "liver"
SIZE = {"width": 1500, "height": 1020}
SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def middle(opened: Opened, organ: str) -> np.ndarray:
    """Return the voxel (z, y, x) of an organ that is nearest to the organ's middle."""
    assert opened.label is not None
    number = next(number for number, name in opened.ids.items() if name == organ)
    inside = np.argwhere(opened.label.load().array == number)
    return inside[np.square(inside - inside.mean(axis=0)).sum(axis=1).argmin()]


def take(site: Site, address: str, picture: Path) -> None:
    """Choose a scan, a place in it, the other scans; search; write what is seen then."""
    opened = site.library.all()[0].open()
    z, y, x = middle(opened, ORGAN)
    start = [n // 2 for n in opened.volume.shape]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE, chromium_sandbox=False)
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.locator("#source-view").focus()
        for key, count in (("ArrowUp", z - start[0]), ("Shift+ArrowDown", y - start[1]), ("ArrowRight", x - start[2])):
            opposite = {"ArrowUp": "ArrowDown", "Shift+ArrowDown": "Shift+ArrowUp", "ArrowRight": "ArrowLeft"}[key]
            for _ in range(abs(count)):
                page.keyboard.press(key if count > 0 else opposite)
        page.locator("#targets summary").click()
        for box in page.locator("#targets input").all()[1:]:
            box.check()
        page.locator("#search").click()
        page.wait_for_selector("#search:enabled", timeout=600_000)
        page.locator("#top").fill("20")
        page.wait_for_timeout(1500)
        page.screenshot(path=picture, full_page=True)
        browser.close()


def main() -> None:
    """Serve the page and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--spacing", type=float, default=2.5, help="of the phantoms, mm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        offered, told = demo.scans(work, spacing_mm=arguments.spacing), "The scans are synthetic."
        encoder = Encoder(demo.encoder(work / "random"))
        site = serve.make(offered, encoder, work, patch=serve.patch_of(None, encoder), overlap=0.625, told=told)
        listener = serve.listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(build(site), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            take(site, serve.address_of("127.0.0.1", listener.getsockname()[1]), arguments.out)
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main()
