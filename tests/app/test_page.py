"""The page in a real browser: with WebGL (drawn in software), and without it."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from ctfm.app.site import STATIC
from ctfm.imaging.volume import Volume
from tests.app.conftest import block, nifti

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and isn't installed")
browser_needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
DRAWN = {
    "webgl": ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
    "png": ["--disable-3d-apis"],
}
PATIENCE_MS = 90_000
NIIVUE = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # of dist/niivue.umd.js, npm, 0.69.0


@pytest.fixture(scope="module", params=list(DRAWN))
def page(request, address, tmp_path_factory) -> Iterator:
    """Open the page in a browser with a profile of its own; it may not complain, nor ask anybody but its server."""
    strangers, complaints = [], []
    with api.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            headless=True,
            chromium_sandbox=False,
            args=[*QUIET, *DRAWN[request.param]],
            viewport={"width": 1400, "height": 900},
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else strangers.append(r.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        assert page.locator("body").get_attribute("data-viewer") == request.param
        yield page
        context.close()
    assert not strangers
    assert not [text for text in complaints if "422" not in text]  # a refused file is the one error that is asked for


def flipped(shape):
    """Return the map of voxels (z, y, x) whose y and x axes run backwards, to those that run forwards."""
    made = np.diag([1.0, -1, -1, 1])
    made[1:3, 3] = np.subtract(shape[1:], 1)
    return made


def place(page, of="source"):
    """Return the point of the cross-hair, L, P, S in mm, as it is told under a scan."""
    text = page.locator(f"#{of}-where").inner_text()
    found = re.match(r"([LR]) (\d+)\s+([PA]) (\d+)\s+([SI]) (\d+)", text)
    return np.array([int(found[n + 1]) * (1 if found[n] in "LPS" else -1) for n in (1, 3, 5)])


def settled(page, of="source"):
    page.wait_for_timeout(400)
    return place(page, of)


def click(page, across, down, of="source"):
    box = page.locator(f"#{of}-view").bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
    return settled(page, of)


def picture(page, of="source"):
    """Return what is drawn of a scan, (rows, columns, 3)."""
    page.wait_for_timeout(500)
    content = page.locator(f"#{of}-view").screenshot()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@browser_needed
@pytest.mark.browser
def test_choose_click_search_and_see(page):
    page.select_option("#source", label=page.locator("#source option").nth(1).inner_text())
    page.wait_for_selector("#source-view[data-scan='2']:not(.busy)")
    page.check("input[name=view][value=axial]", force=True)
    page.locator("#source-slice").fill("30")
    assert page.locator("#source-slice-told").inner_text().startswith("31 of")
    before = settled(page)
    after = click(page, 0.42, 0.5)
    assert (before[:2] != after[:2]).any() and before[2] == after[2]
    page.locator("#targets summary").click()
    for box in page.locator("#targets input").all():
        box.check()
    page.keyboard.press("Escape")
    page.locator("#search").click()
    api.expect(page.locator("#status")).to_contain_text("Searched 2 scans", timeout=PATIENCE_MS)
    assert page.locator("#matches ol button").count() >= 3
    assert page.locator("#found button").count() == 2
    page.locator("#found button", has_text=page.locator("#source option").nth(1).inner_text()).click()
    page.wait_for_selector("#target-view[data-scan='2']:not(.busy)")
    page.wait_for_timeout(500)
    told = page.locator("#matches ol button .place").nth(0).inner_text()
    first = settled(page, "target")
    assert page.locator("#target-where").inner_text().startswith(told)
    page.locator("#matches ol button").nth(2).click()
    assert (settled(page, "target") != first).any()
    with page.expect_download() as loading:
        page.locator("#get-csv").click()
    assert "similarity" in loading.value.path().read_text()


@browser_needed
@pytest.mark.browser
def test_the_heat_map_and_the_window_are_drawn(page):
    colours = lambda: picture(page, "target")  # noqa: E731
    warm = lambda drawn: ((drawn[:, :, 0] - drawn[:, :, 2]) > 60).mean()  # noqa: E731
    page.locator("#opacity").fill("90")
    page.locator("#top").fill("40")
    shown = colours()
    page.locator("#opacity").fill("0")
    hidden = colours()
    assert warm(shown) > 0.01 > 0.001 > warm(hidden)
    page.check("input[name=window][value='-1350,150']", force=True)
    assert np.abs(colours() - hidden).mean() > 5
    page.check("input[name=window][value='-160,240']", force=True)


@browser_needed
@pytest.mark.browser
def test_linked_cross_hairs_keep_their_shift_and_can_be_let_loose(page):
    page.locator("#matches ol button").nth(0).click()
    start, other = settled(page), settled(page, "target")
    page.locator("#source-view").focus()
    page.keyboard.press("ArrowDown")
    moved, followed = settled(page), settled(page, "target")
    assert np.abs((moved - start) - (followed - other)).max() <= 1 and moved[2] < start[2]
    page.locator("#link").uncheck()
    page.locator("#source-view").focus()
    page.keyboard.press("PageDown")
    assert settled(page)[2] < moved[2] and (settled(page, "target") == followed).all()
    page.locator("#link").check()


@browser_needed
@pytest.mark.browser
def test_the_keyboard_is_enough(page):
    page.locator("#source-slice").focus()
    page.keyboard.press("Shift+Tab")  # to the scan above it
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = settled(page)
    page.keyboard.press("ArrowLeft")
    assert settled(page)[0] < before[0]
    page.keyboard.press("Shift+ArrowUp")
    assert settled(page)[1] < before[1]
    page.keyboard.press("Home")
    assert page.locator("#source-slice-told").inner_text().startswith("1 of")
    page.keyboard.press("PageUp")
    assert page.locator("#source-slice-told").inner_text().startswith("11 of")
    page.keyboard.press("Enter")
    api.expect(page.locator("#status")).to_contain_text("Searched", timeout=PATIENCE_MS)
    reached = set()
    page.locator("#source").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "source-view", "source-slice", "SUMMARY", "target", "target-view", "search"} <= reached


@browser_needed
@pytest.mark.browser
def test_a_bad_file_gets_a_message_and_a_good_one_is_the_source(page, tmp_path):
    (tmp_path / "picture.nii").write_bytes(b"\x89PNG\r\n")
    page.set_input_files("#file", tmp_path / "picture.nii")
    api.expect(page.locator("#fault")).to_contain_text("can't be used", timeout=PATIENCE_MS)
    page.set_input_files("#file", nifti(tmp_path / "<b>mine.nii.gz"))
    api.expect(page.locator("#status")).to_contain_text("_b_mine was added", timeout=PATIENCE_MS)
    assert page.locator("#fault").is_hidden()
    assert "_b_mine" in page.locator("#source option:checked").inner_text()
    page.wait_for_selector("#source-view:not(.busy)")
    page.locator("#remove").click()
    page.wait_for_selector("#source-view[data-scan='1']:not(.busy)")
    assert page.locator("#source option").count() == 2


@browser_needed
@pytest.mark.browser
def test_a_click_on_an_oblique_flipped_scan_is_the_voxel_seen_there(page, tmp_path):
    made = block(shape=(40, 36, 44), spacing=(2.0, 2.0, 2.0))
    made = Volume(made.array[:, ::-1, ::-1], made.affine @ flipped(made.shape))
    turn = Rotation.from_euler("zx", [25, 12], degrees=True).as_matrix()
    affine = made.affine.copy()
    affine[:3] = turn @ affine[:3]
    page.set_input_files("#file", nifti(tmp_path / "oblique.nii", Volume(np.ascontiguousarray(made.array), affine)))
    api.expect(page.locator("#status")).to_contain_text("oblique was added", timeout=PATIENCE_MS)
    page.wait_for_selector("#source-view:not(.busy)")
    page.check("input[name=view][value=axial]", force=True)
    page.locator("#source-slice").fill("12")
    drawn = picture(page)
    rows, columns = np.nonzero(drawn.min(axis=2) > 240)  # the ball is white, water grey, the cross-hair blue
    click(page, columns.mean() / drawn.shape[1], rows.mean() / drawn.shape[0])
    assert "800 HU" in page.locator("#source-where").inner_text()
    where = settled(page)
    page.mouse.wheel(0, 120)
    assert (settled(page) != where).any()
    page.locator("#remove").click()
    page.wait_for_selector("#source-view[data-scan='1']:not(.busy)")


@browser_needed
@pytest.mark.browser
def test_every_control_has_a_name_and_a_phone_shows_all(page):
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, button, summary, [role=application]")].filter(
            (e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))).map((e) => e.id)"""
    )
    assert nameless == []
    page.set_viewport_size({"width": 380, "height": 760})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.set_viewport_size({"width": 1400, "height": 900})


def test_niivue_is_the_published_file_with_its_licence():
    folder = STATIC / "vendor/niivue"
    assert hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest() == NIIVUE
    licence = (folder / "LICENSE").read_text()
    assert "0.69.0" in licence and "BSD 2-Clause" in licence and "fflate" in licence


def test_the_pages_own_files_load_nothing_from_elsewhere_and_hold_no_inline_code():
    for path in [*STATIC.glob("*.*"), *STATIC.glob("js/*.js")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|\bon[a-z]+=\"|style=\"|innerHTML|eval\(", text), path.name
