"""The page in a browser without a screen: it fits a phone, asks nobody for anything, and prints whole."""

from __future__ import annotations

import html
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ctfm.reporting import page
from tests import synthetic

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium here")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    " --no-first-run --hide-scrollbars"
)
PHONE = 390  # CSS pixels
# Opens every fold and tells how wide the page is, and whatever sticks out of it without a box to scroll in.
MEASURE = """
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, width = frame.contentWindow.innerWidth;
  page.querySelectorAll("details").forEach((part) => { part.open = true; });
  const wide = [...page.querySelectorAll("body *")].filter(
    (part) => part.getBoundingClientRect().right > width + 1 && !part.closest(".wide, nav, pre"));
  const named = wide.map((part) => part.outerHTML.slice(0, 60));
  document.title = [width, page.documentElement.scrollWidth, ...named].join("|");
};
</script>
"""


def browse(tmp_path, *arguments):
    command = [BROWSER, *OPTIONS.split(), f"--user-data-dir={tmp_path / 'profile'}", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the page of a run that has everything, with names as long as real ones."""
    root = synthetic.everything(tmp_path_factory.mktemp("run"))
    synthetic.frozen(root)
    synthetic.triage(root)
    out = root / "report/report.html"
    out.write_text(page.render(root, "A title that is as long as titles of reports are wont to be", out))
    return out


def test_nothing_sticks_out_at_the_width_of_a_phone(report, tmp_path):
    around = tmp_path / "phone.html"
    around.write_text(
        f'<meta charset="utf-8"><iframe style="border: 0" width="{PHONE}" height="800" '
        f'srcdoc="{html.escape(report.read_text())}"></iframe>{MEASURE}'
    )
    told = re.search("<title>(.*?)</title>", browse(tmp_path, "--dump-dom", around.as_uri()))
    assert told, "the page did not load"
    assert told[1].split("|") == [str(PHONE), str(PHONE)]


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_it_opens_from_disk_and_shows_something(report, tmp_path, width):
    picture = tmp_path / "page.png"
    browse(tmp_path, f"--screenshot={picture}", f"--window-size={width},2400", report.as_uri())
    with Image.open(picture) as shot:
        assert shot.width == width
        grey = np.asarray(shot.convert("L"))
    for part in np.array_split(grey, 4):  # no part of it is blank
        assert (part < 128).mean() > 0.002


def test_all_tables_are_printed_though_they_are_folded_on_the_screen(report, tmp_path):
    picture = tmp_path / "page.pdf"
    browse(tmp_path, f"--print-to-pdf={picture}", "--no-pdf-header-footer", report.as_uri())
    content = picture.read_bytes()
    assert content.startswith(b"%PDF")
    folded = report.read_text().count('<details class="printed">')
    assert folded > 10
    # 256 numbers of the paper alone fill several sheets; with closed folds the page has fewer
    shut = tmp_path / "shut.html"
    shut.write_text(re.sub(r"<script>.*?</script>", "", report.read_text(), flags=re.S))
    browse(tmp_path, f"--print-to-pdf={tmp_path / 'shut.pdf'}", "--no-pdf-header-footer", shut.as_uri())
    sheets = [len(re.findall(rb"/Type\s*/Page\b", text)) for text in (content, (tmp_path / "shut.pdf").read_bytes())]
    assert sheets[0] > sheets[1] + 5
