"""Figures and page through the stage's own functions, from a whole run down to an empty folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from ctfm.errors import UserError
from ctfm.stages import report as stage
from tests import synthetic

FIGURES = json.dumps({"stage": "figures", "version": 1, "figures": {"dpi": 60}})
REPORT = json.dumps({"stage": "report", "version": 1, "title": "A run & its <results>"})
VOID = {"meta", "img", "br", "hr", "link"}


class Checker(HTMLParser):
    """Collects tags, text, and every address; fails on tags that don't nest."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text, self.images = [], [], [], 0
        self.ids, self.skipping = [], False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [attrs[key] for key in ("src", "href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.images += 1
            assert attrs["alt"], "a picture without words"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def made(root, title=REPORT):
    out = root / "report" / "report.html"
    stage.report(results=root, out=out, spec=title)
    page = Checker()
    page.feed(out.read_text())
    assert page.open == []
    page.words = re.sub(r"\s+", " ", " ".join(page.text))  # no-break spaces too
    return page


def test_a_whole_run_is_told_and_nothing_is_loaded_from_elsewhere(tmp_path):
    page = made(synthetic.everything(tmp_path))
    inside = [a for a in page.addresses if not a.startswith(("data:image/png;base64,", "#"))]
    assert inside == ["../volumes/phantom/quality.html"]
    assert {a[1:] for a in page.addresses if a.startswith("#")} == set(page.ids)
    for words in (
        "A run & its <results>",
        "wholebody on phantoms",
        "the paper gives none for such data",
        "localizer",
        "ImageType holds <LOCALIZER>",
        "15,000",
        "CC BY 4.0",
        "epoch=0001.ckpt",
        "highest mean",
        "no_label: 1",
        "as measured",
        "1 min 26 s",
        "2.00",
        "take them for a sketch",
        "numpy",
        "95 % bootstrap interval over 12 patients",
    ):
        assert words in page.words, words
    assert page.images >= 5
    assert "snakemake evaluate" not in page.words


def test_sections_of_stages_that_were_off_say_so_in_one_line(tmp_path):
    synthetic.corpus(tmp_path)
    synthetic.training(tmp_path)
    page = made(tmp_path)
    for words in ("No task was evaluated", "No figure was drawn", "No labelled data set", "No benchmark was recorded"):
        assert words in page.words, words
    assert "No encoder was pre-trained" not in page.words
    assert "No corpus was selected" not in page.words


def test_an_empty_folder_gives_a_page(tmp_path):
    page = made(tmp_path)
    assert "No corpus was selected" in page.words
    assert "Checkpoints were not probed" in page.words
    assert "nothing is known of versions" in page.words


def test_the_page_repeats_and_holds_no_path_of_this_machine(tmp_path):
    synthetic.everything(tmp_path)
    made(tmp_path)
    first = (tmp_path / "report" / "report.html").read_bytes()
    made(tmp_path)
    assert (tmp_path / "report" / "report.html").read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_edited_code_is_named_at_the_top(tmp_path):
    synthetic.everything(tmp_path)
    record = synthetic.stamp("pretrain") | {"code": {"ctfm.training.loop": "000000000000"}}
    (tmp_path / "encoders/ctfm/run.json").write_text(json.dumps(record))
    assert "encoders/ctfm: ctfm.training.loop changed since 'pretrain' made it" in made(tmp_path).words


def test_figures_writes_three_files(tmp_path):
    root = synthetic.run(tmp_path)
    stage.figures(figure=["fig2"], results=root, out=tmp_path / "out", spec=FIGURES)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["fig2.csv", "fig2.png", "fig2.svg"]


def test_unknown_figures_and_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="no figures plug-in called 'fig22'; did you mean 'fig2'"):
        stage.figures(figure=["fig22"], results=tmp_path, out=tmp_path, spec=FIGURES)
    with pytest.raises(UserError, match="outdir"):
        stage.report(results=tmp_path / "no", out=tmp_path / "r.html", spec=REPORT)


def test_needs_no_torch():
    code = "import sys, ctfm.stages.report, ctfm.stages.evaluate, ctfm.figures.fig2; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
